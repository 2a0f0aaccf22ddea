//! A bundle as a log: the team's commits, for the questions that any log answers.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, Seek as _},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use keyledger_events::{
    Commit, CommitBody, CommitNumber, CredentialId, Position, Revision, Timestamp,
    store::{Damage, Follow, Head, ReadError, ReadLog},
};

use super::{
    format::Reader,
    report::{BundleError, Options, Report},
    verify,
};

/// The team's commits in a bundle that was verified when it was opened. Between them are gaps: other teams' commits.
pub struct BundleLog {
    inner: Arc<Inner>,
}

struct Inner {
    path: PathBuf,
    file: File,
    places: Vec<Place>,
    head: Head,
    last_used: Option<HashMap<CredentialId, Timestamp>>,
}

/// Where a commit lies.
#[derive(Clone, Copy)]
struct Place {
    number: CommitNumber,
    first_position: Position,
    events: u64,
    offset: u64,
    len: usize,
}

impl BundleLog {
    /// Verifies the bundle and opens it. It must begin with the team's first event, or what was alive can't be known.
    ///
    /// # Errors
    /// [`BundleError`].
    pub fn open(path: &Path, options: &Options<'_>) -> Result<(Self, Report), BundleError> {
        let file = File::open(path).map_err(|error| BundleError::Io { file: path.into(), error })?;
        let (mut places, mut recorded_at) = (Vec::new(), Timestamp::default());
        let report = verify::verify_open(path, &file, options, |commit, offset, len| {
            let events = commit.records.len() as u64;
            recorded_at = commit.first.recorded_at;
            places.push(Place { number: commit.number, first_position: commit.first_position, events, offset, len });
        })?;
        if report.from != Revision(0) {
            return Err(BundleError::Partial(report.from));
        }
        // If the stream goes on behind the bundle, nothing may be asked about that.
        let end = places.last().map_or(0, |place| place.first_position.0 + place.events);
        let position = Position(if report.whole { report.tree_size } else { end });
        let commits = places.last().map_or(CommitNumber(0), |place| place.number.next());
        let head = Head { commits, position, recorded_at };
        let io = |error| BundleError::Io { file: path.into(), error };
        (&file).rewind().map_err(io)?;
        // It was read a moment ago, when everything held.
        let (header, _) = Reader::open(&file).map_err(|error| io(io::Error::other(error)))?;
        let last_used = header.last_used.map(|used| used.into_iter().collect());
        Ok((Self { inner: Arc::new(Inner { path: path.into(), file, places, head, last_used }) }, report))
    }

    /// What the server knew of the credentials' last uses; none if it did not say. Nothing proves it.
    pub fn last_used(&self) -> Option<&HashMap<CredentialId, Timestamp>> {
        self.inner.last_used.as_ref()
    }
}

impl Inner {
    fn at(&self, index: usize) -> Result<Option<Commit>, ReadError> {
        let Some(place) = self.places.get(index) else { return Ok(None) };
        let mut bytes = vec![0; place.len];
        let file = || self.path.clone();
        let read = self.file.read_exact_at(&mut bytes, place.offset);
        read.map_err(|error: io::Error| ReadError::Io { file: file(), error })?;
        let body = CommitBody::parse(bytes).map_err(|error| ReadError::Damaged {
            file: file(),
            offset: place.offset,
            position: place.first_position,
            what: Damage::Shape(error.to_string()),
        })?;
        Ok(Some(Commit { number: place.number, first_position: place.first_position, body }))
    }
}

impl ReadLog for BundleLog {
    fn head(&self) -> Head {
        self.inner.head
    }

    fn commit(&self, number: CommitNumber) -> Result<Option<Commit>, ReadError> {
        match self.inner.places.binary_search_by_key(&number, |place| place.number) {
            Ok(index) => self.inner.at(index),
            Err(_) => Ok(None),
        }
    }

    fn locate(&self, position: Position) -> Result<Option<CommitNumber>, ReadError> {
        let after = self.inner.places.partition_point(|place| place.first_position <= position);
        let place = after.checked_sub(1).and_then(|at| self.inner.places.get(at));
        Ok(place.filter(|place| position.0 < place.first_position.0 + place.events).map(|place| place.number))
    }

    fn follow(&self, from: CommitNumber) -> Result<Box<dyn Follow>, ReadError> {
        let next = self.inner.places.partition_point(|place| place.number < from);
        Ok(Box::new(Following { inner: self.inner.clone(), next }))
    }
}

struct Following {
    inner: Arc<Inner>,
    next: usize,
}

impl Follow for Following {
    fn next(&mut self, _wait: Duration) -> Result<Option<Commit>, ReadError> {
        let commit = self.inner.at(self.next)?;
        self.next += usize::from(commit.is_some());
        Ok(commit)
    }
}
