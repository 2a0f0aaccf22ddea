//! Giving the ledger another signing key, in steps that each leave something the next opening can finish or take back.
//!
//! 1. The new seed is durable beside the old one.
//! 2. The old key's certificate for it is an event, durable, under a tree head that the old key has signed.
//! 3. The certificates lie beside the log.
//! 4. Both tree head files are signed by the new key.
//! 5. The public key beside the log is the new one.
//! 6. The new seed takes the old one's place.
//!
//! Up to the event nothing has happened and the new seed is thrown away; from the event on only forward is possible. A
//! rotation itself ends by settling, so that a crash takes no other way than success.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use zeroize::Zeroizing;

use super::{
    FileStore, LOG_DIR, Options,
    disk::{Disk, Lock, RealDisk},
    io_error,
    slots::{self, Signed, Slots},
    take_lock,
};
use crate::{
    CommitBody, CommitNumber, CorrelationId, Event, EventId, OperationId, Position, TeamId, Timestamp,
    commit::{Envelope, NewEvent, RequestDigest},
    head::{HeadError, HeadSigner, TreeHead},
    record::{Actor, AuthMethod},
    rotation::{Certificate, KeyChain, RotationError},
    store::{
        AppendError, Damage, Proposal, ReadError, ReadLog, Store,
        keyring::{KeyringError, load_seed_on, save_seed_on},
    },
};

/// The seed in force, in a data directory.
const KEY: &str = "keys/signing.key";
/// The seed that a rotation under way is about to bring into force.
const NEXT: &str = "keys/signing.key.next";
/// The same while it is written.
const NEXT_UNFINISHED: &str = "keys/signing.key.next.tmp";

/// What a rotation needs that this crate does not have: randomness and the time.
pub struct Fresh {
    /// The new key's seed.
    pub seed: Zeroizing<[u8; 32]>,
    /// The event's id, a UUIDv7.
    pub event: EventId,
    /// 16 random bytes.
    pub salt: [u8; 16],
    /// The commit's retry identity.
    pub operation: OperationId,
    /// The request.
    pub correlation: CorrelationId,
    /// Now; the log's latest recorded time counts if it is later.
    pub now: Timestamp,
}

/// How a rotation that was under way has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Settled {
    /// The new key is in force.
    Finished(Box<Certificate>),
    /// It had not got as far as its event. The old key stays in force.
    TakenBack,
}

/// Why the signing key was not replaced.
#[derive(Debug, thiserror::Error)]
pub enum RotateError {
    /// The log can't be opened, or is in use.
    #[error(transparent)]
    Log(#[from] ReadError),
    /// A seed can't be read or written.
    #[error(transparent)]
    Keyring(#[from] KeyringError),
    /// There is nothing to rotate.
    #[error("{}: no ledger with a history", .0.display())]
    NoLedger(PathBuf),
    /// The event was not appended. If its outcome is unknown, the next opening finds out.
    #[error("the log did not take the rotation: {0}")]
    Append(#[from] AppendError),
    /// The certificates in the log do not follow one another.
    #[error("the log's certificates: {0}")]
    Certificates(#[from] RotationError),
    /// The ledger's name can't sign.
    #[error(transparent)]
    Head(#[from] HeadError),
    /// What was appended was not there when the log was opened again.
    #[error("the rotation was taken back; the old key stays in force")]
    TakenBack,
}

/// Replaces the signing key of a ledger that nobody has open. Durable on return, and nothing signs with the old key any
/// more. One that was cut short before is settled first.
///
/// # Errors
/// [`RotateError`]. The old key is in force then, or the rotation is under way and [`settle_rotation`] ends it.
pub fn rotate_signing_key(dir: &Path, fresh: &Fresh, options: &Options) -> Result<Certificate, RotateError> {
    rotate_on(&(Arc::new(RealDisk) as Arc<dyn Disk>), dir, fresh, options)
}

/// Finishes or takes back a rotation that was cut short; none if none was. To be done before a ledger is opened: only
/// then is it known which key is in force. Without one under way nothing is touched.
///
/// # Errors
/// [`RotateError`].
pub fn settle_rotation(dir: &Path, options: &Options) -> Result<Option<Settled>, RotateError> {
    settle_on(&(Arc::new(RealDisk) as Arc<dyn Disk>), dir, options)
}

pub(super) fn rotate_on(
    disk: &Arc<dyn Disk>,
    dir: &Path,
    fresh: &Fresh,
    options: &Options,
) -> Result<Certificate, RotateError> {
    let Some(known) = slots::load_verifier(&**disk, dir)? else {
        return Err(RotateError::NoLedger(dir.to_owned()));
    };
    let lock = take_lock(&**disk, dir)?;
    let (lock, _) = settle(disk, dir, options, lock)?;
    let Some(seed) = load_seed_on(&**disk, &dir.join(KEY))? else { return Err(missing(dir.join(KEY)).into()) };
    let signer = HeadSigner::new(known.origin(), &seed)?;
    let next = HeadSigner::new(known.origin(), &fresh.seed)?;
    let (store, _) = FileStore::open_locked(disk.clone(), dir, signer, options, lock)?;
    let Some(head) = store.stream_head(TeamId::SYSTEM)? else {
        return Err(RotateError::NoLedger(dir.to_owned()));
    };
    save_seed_on(&**disk, &dir.join(NEXT), &fresh.seed)?;
    let at = fresh.now.max(store.head().recorded_at);
    // Nobody else writes: the next position is the event's.
    let signer = HeadSigner::new(known.origin(), &seed)?;
    let certificate = Certificate::sign(&signer, &next.verifier(), store.head().position, at);
    let envelope = Envelope {
        team: TeamId::SYSTEM,
        recorded_at: at,
        actor: Actor::System,
        auth: AuthMethod::Internal,
        correlation: fresh.correlation,
        context: None,
        operation: fresh.operation,
        request: RequestDigest::default(),
    };
    let event = NewEvent { id: fresh.event, salt: fresh.salt, cause: None, event: certificate.event() };
    let (body, _) = CommitBody::build(Some(head), &envelope, vec![event]);
    let appended = store.append(Proposal { team: TeamId::SYSTEM, expected: Some(head), body, essential: false });
    if let Err(error @ (AppendError::Unknown | AppendError::Fatal(_))) = appended {
        // A disk that has failed is not asked again by this process.
        return Err(error.into());
    }
    let lock = store.hand_over()?;
    match settle(disk, dir, options, lock)?.1 {
        Some(Settled::Finished(certificate)) => Ok(*certificate),
        _ => Err(appended.err().map_or(RotateError::TakenBack, RotateError::Append)),
    }
}

pub(super) fn settle_on(disk: &Arc<dyn Disk>, dir: &Path, options: &Options) -> Result<Option<Settled>, RotateError> {
    if [NEXT, NEXT_UNFINISHED].iter().all(|name| !exists(&**disk, &dir.join(name))) {
        return Ok(None);
    }
    let lock = take_lock(&**disk, dir)?;
    settle(disk, dir, options, lock).map(|(_, settled)| settled)
}

/// Everything is read again under the lock: another process may have settled it meanwhile.
fn settle(
    disk: &Arc<dyn Disk>,
    dir: &Path,
    options: &Options,
    lock: Lock,
) -> Result<(Lock, Option<Settled>), RotateError> {
    let (key, next) = (dir.join(KEY), dir.join(NEXT));
    // No event has named what never got its name.
    remove(&**disk, &dir.join(NEXT_UNFINISHED))?;
    let Some(next_seed) = load_seed_on(&**disk, &next)? else { return Ok((lock, None)) };
    let Some(seed) = load_seed_on(&**disk, &key)? else { return Err(missing(key).into()) };
    let Some(known) = slots::load_verifier(&**disk, dir)? else {
        return Err(missing(dir.join(slots::VERIFIER)).into());
    };
    let old = HeadSigner::new(known.origin(), &seed)?;
    let new = HeadSigner::new(known.origin(), &next_seed)?;
    let (verifier, by) = (new.verifier(), old.verifier());
    let last = |keys: Option<KeyChain>| {
        let last = keys.and_then(|keys| keys.certificates().last().cloned());
        last.filter(|last| *last.new_key() == verifier && *last.old() == by)
    };
    let (lock, certificate) = match last(slots::load_keys(&**disk, dir)?) {
        Some(certificate) => (lock, certificate),
        None => {
            let (store, _) = FileStore::open_locked(disk.clone(), dir, old, options, lock)?;
            let keys = certificates(&store)?;
            let lock = store.hand_over()?;
            let Some(certificate) = last(keys.clone()) else {
                remove(&**disk, &next)?;
                return Ok((lock, Some(Settled::TakenBack)));
            };
            if let Some(keys) = &keys {
                slots::save_keys(&**disk, dir, keys).map_err(|error| io_error(&dir.join(slots::KEYS), error))?;
            }
            (lock, certificate)
        }
    };
    sign_anew(&**disk, dir, &certificate, &new)?;
    slots::save_verifier(&**disk, dir, &verifier).map_err(|error| io_error(&dir.join(slots::VERIFIER), error))?;
    let renamed = disk.rename(&next, &key).and_then(|()| disk.sync_dir(&dir.join("keys")));
    renamed.map_err(|error| io_error(&key, error))?;
    Ok((lock, Some(Settled::Finished(certificate.into()))))
}

/// All certificates there are in the log: it is the only copy that counts.
fn certificates(log: &dyn ReadLog) -> Result<Option<KeyChain>, RotateError> {
    let mut keys: Option<KeyChain> = None;
    let mut follow = log.follow(CommitNumber(0))?;
    while let Some(commit) = follow.next(std::time::Duration::ZERO)? {
        if commit.body.view().first().is_ok_and(|first| first.team != TeamId::SYSTEM) {
            continue;
        }
        for placed in commit.records() {
            let placed = placed.map_err(|error| {
                let (file, position) = (PathBuf::from(LOG_DIR), commit.first_position);
                ReadError::Damaged { file, offset: 0, position, what: Damage::Record(error) }
            })?;
            let Event::SigningKeyRotated(rotated) = &placed.record.event else { continue };
            let certificate = Certificate::parse(&rotated.certificate)?;
            match &mut keys {
                Some(keys) => keys.push(certificate)?,
                None => keys = Some(KeyChain::begun_by(certificate)),
            }
        }
    }
    Ok(keys)
}

/// Has the new key sign the tree that ends with the event, in both files, one after the other.
fn sign_anew(disk: &dyn Disk, dir: &Path, certificate: &Certificate, new: &HeadSigner) -> Result<(), RotateError> {
    let log = dir.join(LOG_DIR);
    let signed = Signed::load(disk, &log, &KeyChain::begun_by(certificate.clone()))?;
    let head: TreeHead = signed.newest(&log)?;
    if head.size != certificate.position().0 + 1 {
        return Err(ReadError::TreeHead { file: log, what: HeadError::NotInForce }.into());
    }
    let note = new.sign(&head);
    let io = |error| io_error(&log, error);
    let mut slots = Slots::open(disk, &log, &signed).map_err(io)?;
    slots.write(&note).and_then(|()| slots.write(&note)).map_err(io)?;
    Ok(())
}

fn exists(disk: &dyn Disk, path: &Path) -> bool {
    !matches!(disk.open(path, false), Err(error) if error.kind() == io::ErrorKind::NotFound)
}

/// Removes a file of the keys, durably on return.
fn remove(disk: &dyn Disk, path: &Path) -> Result<(), ReadError> {
    let removed = match disk.remove(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        removed => removed,
    };
    let folder = path.parent().unwrap_or(path);
    removed.and_then(|()| disk.sync_dir(folder)).map_err(|error| io_error(path, error))
}

fn missing(file: PathBuf) -> ReadError {
    ReadError::Damaged { file, offset: 0, position: Position(0), what: Damage::Missing }
}
