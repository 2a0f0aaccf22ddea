//! Whether a bundle proves what it shows: no network, no server, nothing believed but the ledger's key.

use std::{
    fmt,
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use super::{
    format::{FormatError, Header, Item, Reader, SealShown},
    report::{Broken, BundleError, Options, Report, Sealed},
};
use crate::verify::{
    Witnessed,
    part::{Decoded, Decoder, Judge, Wrong},
    witnessed,
};
use keyledger_events::{
    CommitNumber, Event, Position, Revision, TeamId, Timestamp,
    head::{HeadVerifier, TreeHead},
    record::{StreamHead, follow_chain},
    rotation::KeyChain,
    statement::TeamStatement,
    tree::{Frontier, NodeHash},
};

/// Verifies a bundle.
///
/// # Errors
/// [`BundleError`]: the first thing that does not hold.
pub fn verify(file: &Path, options: &Options<'_>) -> Result<Report, BundleError> {
    let input = File::open(file).map_err(|error| BundleError::Io { file: file.into(), error })?;
    verify_open(file, &input, options, |_, _, _| {})
}

/// [`verify`], and hands over every commit of the team as it is met, with the place of its body in the file.
pub(super) fn verify_open(
    file: &Path,
    input: &File,
    options: &Options<'_>,
    mut visit: impl FnMut(&Decoded<'_>, u64, usize),
) -> Result<Report, BundleError> {
    let total = input.metadata().map_err(|error| BundleError::Io { file: file.into(), error })?.len();
    let progress = options.progress.unwrap_or(&crate::quiet);
    check(input, options, &mut visit, &|done| progress(done, total)).map_err(|error| match error {
        Refused::Wrong(position, what) => Broken { file: file.into(), position, what }.into(),
        Refused::Format(FormatError::Io(error)) => BundleError::Io { file: file.into(), error },
        Refused::Format(error) => Broken { file: file.into(), position: None, what: error.to_string() }.into(),
        Refused::NotComparable(size) => BundleError::NotComparable(size),
        Refused::Older { has, kept } => BundleError::Older { has, kept },
    })
}

/// Verifies bytes from anywhere.
pub(super) fn check(
    input: impl Read,
    options: &Options<'_>,
    visit: &mut dyn FnMut(&Decoded<'_>, u64, usize),
    progress: &dyn Fn(u64),
) -> Result<Report, Refused> {
    let (header, mut reader) = Reader::open(input)?;
    let mut audit = Audit::new(header, options)?;
    let mut decoder = Decoder::default();
    let mut told = 0;
    loop {
        if reader.place() - told > 1 << 20 {
            told = reader.place();
            progress(told);
        }
        match reader.next() {
            Ok(None) => break,
            Ok(Some(Item::Node { level, hash })) => audit.node(level, hash)?,
            Ok(Some(Item::Commit { number, first_position, offset, body })) => {
                audit.place(number, first_position, body)?;
                let commit = decoder.decode(number, first_position, body, &audit.cuts)?;
                if audit.commit(&commit)? {
                    visit(&commit, offset, body.len());
                }
            }
            // Where it ends too early is a place in the log.
            Err(FormatError::Short) => {
                return wrong(
                    audit.at(),
                    format!("the bundle is cut off before its {} events are over", audit.head.size),
                );
            }
            Err(error) => return Err(error.into()),
        }
    }
    audit.finish()
}

pub(super) enum Refused {
    Wrong(Option<Position>, String),
    Format(FormatError),
    NotComparable(u64),
    Older { has: u64, kept: u64 },
}

impl From<FormatError> for Refused {
    fn from(error: FormatError) -> Self {
        Self::Format(error)
    }
}

impl From<Wrong> for Refused {
    fn from(Wrong { position, what }: Wrong) -> Self {
        Self::Wrong(Some(position), what)
    }
}

fn wrong<T>(position: Position, what: impl Into<String>) -> Result<T, Refused> {
    Err(Refused::Wrong(Some(position), what.into()))
}

fn refuse<T>(what: impl Into<String>) -> Result<T, Refused> {
    Err(Refused::Wrong(None, what.into()))
}

/// The bundle's keys, from the one that is believed on.
fn keys(header: &Header, pinned: Option<&HeadVerifier>) -> Result<KeyChain, Refused> {
    let own: HeadVerifier = match header.key.parse() {
        Ok(own) => own,
        Err(error) => return refuse(format!("the bundle's key is none: {error}")),
    };
    let certified = KeyChain::parse(&header.key_rotations.concat());
    let certified = certified.map_err(|error| Refused::Wrong(None, format!("the bundle's key rotations: {error}")))?;
    let keys = certified.unwrap_or_else(|| own.clone().into());
    if *keys.newest() != own {
        return refuse("the bundle's key rotations do not lead to its key");
    }
    match pinned {
        None => Ok(keys),
        Some(pinned) => keys.trusted_from(pinned).map_err(|_| {
            Refused::Wrong(
                None,
                format!(
                    "the bundle is signed by {own}, not by the given key {pinned}, from which no rotation leads there"
                ),
            )
        }),
    }
}

/// A verification under way.
struct Audit {
    header: Header,
    key_pinned: bool,
    keys: KeyChain,
    witnessed: Option<Witnessed>,
    head: TreeHead,
    statement: TeamStatement,
    /// Kept tree heads that are still to be met, the smallest first.
    kept: Vec<TreeHead>,
    /// Their sizes.
    cuts: Vec<u64>,
    compared_sizes: Vec<u64>,
    tree: Frontier,
    /// The number of the last commit shown.
    number: Option<CommitNumber>,
    recorded_at: Timestamp,
    /// The team's last event shown, and its position.
    last: Option<(StreamHead, Position)>,
    /// Only if the stream is shown from its beginning.
    judge: Option<Judge>,
    commits: u64,
    events: u64,
    seal_found: bool,
    /// Whether the event that the seal names has been met.
    seal_compared: bool,
}

impl Audit {
    fn new(header: Header, options: &Options<'_>) -> Result<Self, Refused> {
        let keys = keys(&header, options.key.as_ref())?;
        if header.origin != keys.origin() {
            return refuse(format!("the bundle says it is of {}, its key of {}", header.origin, keys.origin()));
        }
        if let Some(team) = options.team.filter(|team| *team != header.team) {
            return refuse(format!("the bundle is of team {}, not of team {team}", header.team));
        }
        let sentence = |error: &dyn fmt::Display| Refused::Wrong(None, error.to_string());
        let head = keys.verify(&header.tree_head).map_err(|error| sentence(&error))?;
        let statement = TeamStatement::verify(&header.statement, keys.newest()).map_err(|error| sentence(&error))?;
        let heads = [(PathBuf::new(), header.tree_head.clone())];
        let witnessed = options.policy.as_ref().map(|policy| witnessed(policy, &heads, &keys)).transpose();
        let witnessed = witnessed.map_err(|broken| Refused::Wrong(None, broken.what))?;
        if statement.team != header.team {
            return refuse(format!("the bundle is of team {}, its statement of team {}", header.team, statement.team));
        }
        if statement.tree != head {
            return refuse("the team statement is of another tree than the signed tree head");
        }
        let mut kept = Vec::new();
        for note in &options.known_heads {
            match keys.verify_known(note) {
                Ok(kept_head) if kept_head.size > head.size => {
                    return Err(Refused::Older { has: head.size, kept: kept_head.size });
                }
                Ok(kept_head) => kept.push(kept_head),
                Err(error) => return refuse(format!("the kept tree head: {error}")),
            }
        }
        kept.sort_unstable_by_key(|head| head.size);
        let mut audit = Self {
            key_pinned: options.key.is_some(),
            keys,
            witnessed,
            head,
            statement,
            cuts: kept.iter().map(|head| head.size).collect(),
            kept,
            compared_sizes: Vec::new(),
            tree: Frontier::new(),
            number: None,
            recorded_at: Timestamp::default(),
            last: None,
            judge: (header.from == Revision(0)).then(Judge::new),
            commits: 0,
            events: 0,
            seal_found: false,
            seal_compared: false,
            header,
        };
        audit.check_seal()?;
        audit.meet_kept()?;
        Ok(audit)
    }

    /// What a seal must be by itself, before anything of the tree is known.
    fn check_seal(&self) -> Result<(), Refused> {
        let Some(seal) = &self.header.seal else { return Ok(()) };
        if seal.position.0 >= self.head.size || seal.through > seal.position {
            return refuse("the seal is not in the tree");
        }
        if !seal.proof.verify(self.header.team, &seal.stream_head(), &seal.root) {
            return refuse("the seal's proof does not lead from the team's event to the seal's root");
        }
        Ok(())
    }

    /// The first position that is not covered yet.
    fn at(&self) -> Position {
        Position(self.tree.size())
    }

    fn node(&mut self, level: u8, hash: NodeHash) -> Result<(), Refused> {
        let (start, level) = (self.tree.size(), u32::from(level));
        let end = 1_u64.checked_shl(level).and_then(|len| start.checked_add(len));
        let Some(end) = end.filter(|end| *end <= self.head.size) else {
            return wrong(self.at(), format!("a node reaches beyond the tree of {} events", self.head.size));
        };
        if let Some(cut) = self.cuts.iter().find(|cut| start < **cut && **cut < end) {
            return Err(Refused::NotComparable(*cut));
        }
        if !self.tree.push_subtree(level, hash) {
            return wrong(Position(start), "a node stands where none of its size can");
        }
        self.meet_kept()
    }

    /// Whether a commit can stand here, before it is decoded.
    fn place(&mut self, number: CommitNumber, first_position: Position, body: &[u8]) -> Result<(), Refused> {
        if first_position != self.at() {
            return wrong(self.at(), format!("a commit of position {first_position} stands at position {}", self.at()));
        }
        // Every commit has an event at least, so a commit's number is at most its position.
        let follows = self.number.is_none_or(|last| last < number) && number.0 <= first_position.0;
        if !follows {
            return wrong(first_position, format!("a commit of number {number} can't stand here"));
        }
        self.number = Some(number);
        let count = body.get(1..3).map_or(0, |count| u64::from(u16::from_le_bytes([count[0], count[1]])));
        if first_position.0.checked_add(count).is_none_or(|end| end > self.head.size) {
            return wrong(first_position, format!("a commit reaches beyond the tree of {} events", self.head.size));
        }
        Ok(())
    }

    /// Takes in a commit; whether it is the team's.
    fn commit(&mut self, commit: &Decoded<'_>) -> Result<bool, Refused> {
        let first = commit.first_position;
        if commit.first.recorded_at < self.recorded_at {
            let (at, before) = (commit.first.recorded_at, self.recorded_at);
            return wrong(first, format!("recorded at {at}, before its predecessor's {before}"));
        }
        self.recorded_at = commit.first.recorded_at;
        let is_own = commit.first.team == self.header.team;
        let is_seal = self.is_seal(commit)?;
        if !is_own && !is_seal {
            return wrong(first, format!("a commit of team {}, which this bundle is not of", commit.first.team));
        }
        if is_own {
            self.own(commit)?;
        }
        for (level, node) in commit.nodes {
            if !self.tree.push_subtree(*level, *node) {
                return wrong(self.at(), "the tree does not fit together");
            }
            self.meet_kept()?;
        }
        Ok(is_own)
    }

    /// The team's next commit.
    fn own(&mut self, commit: &Decoded<'_>) -> Result<(), Refused> {
        let first = commit.first_position;
        let head = match &self.last {
            Some((head, _)) => Some(*head),
            None if commit.first.revision != self.header.from => {
                let (from, found) = (self.header.from, commit.first.revision);
                return wrong(first, format!("revision {found} where the bundle begins with revision {from}"));
            }
            // What it names is believed: the bundle does not show it.
            None => (commit.first.revision.0.checked_sub(1))
                .map(|before| StreamHead { revision: Revision(before), hash: commit.first.previous }),
        };
        if self.last.is_none() {
            self.meet_seal(head, None, first)?;
        }
        follow_chain(head, &commit.first)
            .map_err(|error| Refused::Wrong(Some(first), format!("team {}: {error}", self.header.team)))?;
        if let Some(judge) = &mut self.judge {
            judge.apply(commit)?;
        }
        let events = commit.records.len() as u64;
        let head = StreamHead { revision: Revision(commit.first.revision.0 + events - 1), hash: commit.last_hash };
        self.meet_seal(Some(head), Some(first), Position(first.0 + events))?;
        self.last = Some((head, Position(first.0 + events - 1)));
        self.commits += 1;
        self.events += events;
        Ok(())
    }

    /// Compares the team's event in the seal with the chain: `head` is what a commit from `begin` up to `end` has left.
    fn meet_seal(&mut self, head: Option<StreamHead>, begin: Option<Position>, end: Position) -> Result<(), Refused> {
        let (Some(seal), Some(head)) = (&self.header.seal, head) else { return Ok(()) };
        let sealed = seal.stream_head();
        if head.revision == sealed.revision {
            if head != sealed {
                return wrong(
                    end,
                    format!("the seal says revision {} is {}, it is {}", sealed.revision, sealed.hash, head.hash),
                );
            }
            if begin.is_some() && end > seal.through {
                return wrong(end, format!("the seal through position {} names an event behind it", seal.through));
            }
            self.seal_compared = true;
        } else if head.revision > sealed.revision && begin.is_some_and(|begin| begin < seal.through) {
            let begin = begin.unwrap_or_default();
            let through = seal.through;
            return wrong(begin, format!("the seal through position {through} hides revision {}", head.revision));
        }
        Ok(())
    }

    /// Whether this commit is the seal's. It must then hold nothing else.
    fn is_seal(&mut self, commit: &Decoded<'_>) -> Result<bool, Refused> {
        let Some(SealShown { position, .. }) = self.header.seal else { return Ok(false) };
        let Some(at) = position.0.checked_sub(commit.first_position.0) else { return Ok(false) };
        let Some(record) = commit.records.get(at as usize) else { return Ok(false) };
        let seals = |record: &keyledger_events::Record| matches!(record.event, Event::HistorySealed(_));
        let expected = self.header.seal.as_ref().map(SealShown::event);
        match &record.event {
            Event::HistorySealed(event)
                if commit.first.team == TeamId::SYSTEM
                    && commit.records.iter().all(seals)
                    && Some(event) == expected.as_ref() =>
            {
                self.seal_found = true;
                Ok(true)
            }
            _ => wrong(position, "the event here is not the seal that the bundle names"),
        }
    }

    /// Compares the kept tree heads of the size reached.
    fn meet_kept(&mut self) -> Result<(), Refused> {
        while let Some(kept) = self.kept.first().copied().filter(|kept| kept.size == self.tree.size()) {
            self.kept.remove(0);
            let found = self.tree.root();
            if found != kept.root {
                let since = Position(self.compared_sizes.last().copied().unwrap_or(0));
                let what = format!(
                    "the first {} events have root {found} here, the kept tree head says {}: the ledger's history was \
                     changed or forked at or after this position",
                    kept.size, kept.root
                );
                return wrong(since, what);
            }
            self.compared_sizes.push(kept.size);
        }
        Ok(())
    }

    fn finish(self) -> Result<Report, Refused> {
        let (size, statement) = (self.head.size, &self.statement);
        if self.tree.size() != size {
            return wrong(self.at(), format!("the bundle ends here, its signed tree head is of {size} events"));
        }
        let Some((last, position)) = self.last else { return refuse("the bundle shows no event of its team") };
        if last.revision != self.header.to {
            let (to, found) = (self.header.to, last.revision);
            return wrong(position, format!("the bundle ends with revision {found}, not with revision {to}"));
        }
        let to_the_end = last.revision == statement.head.revision;
        if last.revision > statement.head.revision
            || (to_the_end && (last, position) != (statement.head, statement.position))
        {
            let stated = &statement.head;
            return wrong(
                position,
                format!(
                    "revision {} is {} here; the ledger has stated that the stream ends with revision {}, {}, at position {}",
                    last.revision, last.hash, stated.revision, stated.hash, statement.position
                ),
            );
        }
        let root = self.tree.root();
        if root != self.head.root {
            return refuse(format!(
                "the root over {size} events is {root}, the signed tree head says {}: something in the bundle was changed",
                self.head.root
            ));
        }
        if let Some(seal) = &self.header.seal {
            if !self.seal_found {
                return wrong(seal.position, "the seal that the bundle names is not shown");
            }
            if to_the_end && seal.revision > last.revision {
                return wrong(
                    position,
                    format!(
                        "the ledger has stated that the stream ends here, with revision {}; its seal at position {} says it \
                     goes on to revision {}: a tail is hidden",
                        last.revision, seal.position, seal.revision
                    ),
                );
            }
            let in_reach = self.header.from.0 <= seal.revision.0 && seal.revision <= last.revision;
            if in_reach && !self.seal_compared {
                return wrong(
                    seal.position,
                    format!("the seal's revision {} is in the middle of a commit", seal.revision),
                );
            }
        }
        let seal = self.header.seal.as_ref().map(|seal| Sealed {
            position: seal.position,
            through: seal.through,
            revision: seal.revision,
            compared: self.seal_compared,
        });
        Ok(Report {
            origin: self.keys.origin().to_owned(),
            key_pinned: self.key_pinned,
            key_rotations: self.keys.rotations() as u64,
            witnessed: self.witnessed,
            team: self.header.team,
            whole: self.header.from == Revision(0) && to_the_end,
            from: self.header.from,
            to: self.header.to,
            last: statement.head.revision,
            commits: self.commits,
            events: self.events,
            live_credentials: self.judge.as_ref().map(Judge::live),
            tree_size: size,
            root: root.to_string(),
            tree_head: self.header.tree_head,
            stated_at: statement.time,
            seal,
            compared_sizes: self.compared_sizes,
            last_uses: self.header.last_used.as_ref().map_or(0, |uses| uses.len() as u64),
            exported_at: self.header.exported_at,
        })
    }
}
