//! Bundles from the running ledger: a team's history with what proves it, as a stream.

use std::{
    cell::RefCell,
    collections::{BTreeMap, HashMap},
    io,
    sync::Arc,
};

use bytes::Bytes;
use keyledger_events::{
    CredentialId, Position, TeamId, Timestamp,
    head::TreeHead,
    store::file::{PublishedTree, TreeError},
    tree::{
        NodeHash, node_hash,
        proof::Nodes,
        tile::{TILE_HEIGHT, TILE_WIDTH, TileKind, TilePath},
    },
};
use keyledger_projections::Until;
use keyledger_replay::bundle::{self, ExportError, Material, SealShown, Selection};
use tokio::sync::mpsc;

use crate::{
    app::{App, Shared},
    http::Problem,
    seals::Sealed,
    statements::{self, End},
};

/// More last uses than this are left out: a header must stay small.
const LAST_USES_MAX: usize = 100_000;
/// Chunks under way: what a slow reader makes us keep.
const CHUNKS: usize = 2;

/// A chunk of a bundle, or why there will be no more.
pub type Chunk = Result<Bytes, ExportError>;

/// Everything a bundle needs that must be of one moment.
struct Moment {
    sealed: Arc<Sealed>,
    end: End,
    tree: TreeHead,
    tree_head: String,
    statement: String,
}

/// Begins a bundle of a team's history; its bytes come as they are read from the log.
///
/// # Errors
/// When there is no such team, or nothing signed covers it yet.
pub async fn begin(app: &Shared, team: TeamId, selection: Selection) -> Result<mpsc::Receiver<Chunk>, Problem> {
    let sealed = app.seals.of(app, team).await?;
    let end = tokio::task::block_in_place(|| statements::end(app, team))?.ok_or_else(Problem::not_found)?;
    let last = end.position.max(sealed.position);
    let (tree, tree_head) = statements::covering_head(app, last).await.ok_or_else(statements::not_signed)?;
    let statement = statements::sign(app, team, &end, tree);
    let last_used = last_used(app, team)?;
    let moment = Moment { sealed, end, tree, tree_head, statement };
    let (sender, receiver) = mpsc::channel(CHUNKS);
    let app = app.clone();
    tokio::task::spawn_blocking(move || {
        let mut out = Chunks { sender: &sender };
        if let Err(error) = write(&app, team, moment, last_used, &selection, &mut out) {
            // Half a bundle must not look like a whole one; nobody may be listening any more.
            let _ = sender.blocking_send(Err(error));
        }
    });
    Ok(receiver)
}

fn write(
    app: &App,
    team: TeamId,
    moment: Moment,
    last_used: Option<BTreeMap<CredentialId, Timestamp>>,
    selection: &Selection,
    out: &mut dyn io::Write,
) -> Result<(), ExportError> {
    let Moment { sealed, end, tree, tree_head, statement } = moment;
    let key = app.signer.verifier();
    let seal = sealed.prove(team).map(|(head, proof)| SealShown::new(sealed.position, &sealed.seal, head, proof));
    let mut numbers = app.projections.team_commits(team);
    numbers.truncate(numbers.partition_point(|number| *number <= end.commit));
    let nodes = TileNodes { tree: app.tree.clone(), size: tree.size, tiles: RefCell::default() };
    let material = Material {
        log: app.store.as_ref(),
        nodes: &nodes,
        origin: key.origin().to_owned(),
        key: key.to_string(),
        key_rotations: app.key_rotations.clone(),
        team,
        numbers,
        tree,
        tree_head,
        statement,
        seal,
        last_used,
        exported_at: app.now(),
    };
    bundle::export(material, selection, out, &keyledger_replay::quiet)?;
    Ok(())
}

/// What is known of the last use of the team's credentials; none if that is too much for a header.
fn last_used(app: &App, team: TeamId) -> Result<Option<BTreeMap<CredentialId, Timestamp>>, Problem> {
    let ids: Vec<CredentialId> =
        app.team_at(team, Until::Now, |view, _| view.directory.rows().iter().map(|row| row.id).collect())?;
    let used = ids.into_iter().filter_map(|id| Some((id, app.projections.active().last_used(id)?)));
    let used: BTreeMap<_, _> = used.take(LAST_USES_MAX + 1).collect();
    Ok((used.len() <= LAST_USES_MAX).then_some(used))
}

/// Sends what is written.
struct Chunks<'a> {
    sender: &'a mpsc::Sender<Chunk>,
}

impl io::Write for Chunks<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let sent = self.sender.blocking_send(Ok(Bytes::copy_from_slice(bytes)));
        sent.map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The published tree by whole tiles, the last one of each level kept: a bundle goes through them in order.
struct TileNodes {
    tree: Arc<PublishedTree>,
    size: u64,
    tiles: RefCell<HashMap<u8, (u64, Vec<NodeHash>)>>,
}

impl Nodes for TileNodes {
    type Error = TreeError;

    fn node(&self, level: u32, index: u64) -> Result<NodeHash, TreeError> {
        let beyond = || TreeError::Beyond { asked: Position((index + 1) << level).0, published: self.size };
        let (tile_level, within) = ((level / TILE_HEIGHT) as u8, level % TILE_HEIGHT);
        let (first, count) = (index << within, 1_usize << within);
        let tile = first / TILE_WIDTH;
        let mut tiles = self.tiles.borrow_mut();
        if tiles.get(&tile_level).is_none_or(|(kept, _)| *kept != tile) {
            let have = self.size >> (u32::from(tile_level) * TILE_HEIGHT);
            let width = have.saturating_sub(tile * TILE_WIDTH).min(TILE_WIDTH) as u16;
            let path = TilePath { kind: TileKind::Hashes { level: tile_level }, index: tile, width };
            let bytes = self.tree.tile(&path)?.ok_or_else(beyond)?;
            let hashes = bytes.as_chunks::<32>().0.iter().map(|hash| NodeHash(*hash)).collect();
            tiles.insert(tile_level, (tile, hashes));
        }
        let at = (first % TILE_WIDTH) as usize;
        let row = tiles.get(&tile_level).and_then(|(_, hashes)| hashes.get(at..at + count)).ok_or_else(beyond)?;
        let mut row = row.to_vec();
        while row.len() > 1 {
            row = row.as_chunks::<2>().0.iter().map(|[left, right]| node_hash(left, right)).collect();
        }
        row.first().copied().ok_or_else(beyond)
    }
}
