//! One follower of the feed. It does something only when its connection asks for more.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use keyledger_events::{
    Position,
    secret::{Kind, SecretHash},
};
use keyledger_projections::feed::HeadMessage;
use tokio::{
    sync::{OwnedSemaphorePermit, watch},
    task::JoinSet,
    time::{Instant, sleep_until},
};

use super::{
    Feed, FeedEnd, Joined, Taken, Teams,
    history::{self, Stretch},
    text,
};

/// How often a follower hears how far the ledger is, and how often its credential is looked at.
const BEAT: Duration = Duration::from_secs(1);
/// Bytes that are read from the log at once for a follower.
pub(super) const LARGE: usize = 256 << 10;
/// The same when many others wait for theirs to be taken, and what is taken from the ring at once.
const SMALL: usize = 16 << 10;
/// What a connection is handed at once: it keeps a buffer of that size from then on.
const PIECE: usize = 32 << 10;
/// A follower that has not asked for more for so long when it goes was stalled.
const STALLED: Duration = Duration::from_secs(3);

/// Why somebody may not follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The log ends before the position they come from: here, or it has no event.
    Beyond(Option<Position>),
    /// There are too many already.
    Full,
    /// The service ends.
    Closing,
    /// The service has failed.
    Failed,
}

/// A follower, from its request to its connection's end.
pub struct Follower {
    feed: Arc<Feed>,
    credential: SecretHash,
    teams: Option<Teams>,
    news: watch::Receiver<bool>,
    joined: Joined,
    /// The last message's position, or what the follower came with.
    told: Option<Position>,
    /// Everything up to here that concerns it has been told.
    covered: Option<Position>,
    /// What is done for it off the async threads; at most one thing.
    work: JoinSet<Work>,
    /// Read for it, not handed over yet.
    waiting: Bytes,
    /// Held while `waiting` is large.
    large: Option<OwnedSemaphorePermit>,
    /// When it must hear something at the latest.
    beat: Instant,
    /// When its credential was looked at.
    looked: Instant,
    /// When it was last handed something.
    handed: Instant,
    ended: Option<FeedEnd>,
}

enum Work {
    Joined(Joined),
    Read(Result<Stretch, String>, Option<OwnedSemaphorePermit>),
}

impl Follower {
    /// Begins after a position (none: with the first event), for some teams (none: all).
    ///
    /// # Errors
    /// [`Refused`].
    pub async fn begin(
        feed: &Arc<Feed>,
        credential: SecretHash,
        after: Option<Position>,
        teams: Option<Teams>,
    ) -> Result<Self, Refused> {
        if feed.news.receiver_count() >= feed.followers_max {
            return Err(Refused::Full);
        }
        let news = feed.news.subscribe();
        if *news.borrow() {
            return Err(Refused::Closing);
        }
        let joining = (feed.clone(), teams.clone());
        let joined = tokio::task::spawn_blocking(move || joining.0.join(joining.1.as_deref())).await;
        let joined = joined.map_err(|_| Refused::Failed)?;
        if after > joined.until {
            return Err(Refused::Beyond(joined.until));
        }
        feed.metrics.feed_followers.increment(1);
        let now = Instant::now();
        Ok(Self {
            feed: feed.clone(),
            credential,
            teams,
            news,
            joined,
            told: after,
            covered: after,
            work: JoinSet::new(),
            waiting: Bytes::new(),
            large: None,
            beat: now,
            looked: now,
            handed: now,
            ended: None,
        })
    }

    /// The next bytes; none: the feed has ended.
    pub async fn next(mut self) -> Option<(Bytes, Self)> {
        match self.more().await {
            Ok(bytes) => {
                self.handed = Instant::now();
                Some((bytes, self))
            }
            Err(why) => {
                self.ended = Some(why);
                None
            }
        }
    }

    async fn more(&mut self) -> Result<Bytes, FeedEnd> {
        loop {
            if *self.news.borrow_and_update() {
                return Err(FeedEnd::Shutdown);
            }
            if self.looked.elapsed() >= BEAT {
                self.looked = Instant::now();
                if !self.is_welcome() {
                    return Err(FeedEnd::Revoked);
                }
            }
            if let Some(piece) = self.piece() {
                return Ok(piece);
            }
            if self.covered < self.joined.until || !self.work.is_empty() {
                if let Some(bytes) = self.catch_up().await? {
                    return Ok(bytes);
                }
                continue;
            }
            let mut text = Vec::new();
            match self.feed.take(self.teams.as_ref(), &mut self.joined, (&mut self.told, &mut self.covered), &mut text)
            {
                Taken::Lagged => {
                    self.feed.metrics.feed_lagged.increment(1);
                    self.join_again();
                    continue;
                }
                Taken::Messages(messages) => self.feed.metrics.feed_messages.increment(messages),
            }
            // The ring was emptied, or there are so many messages that the next look comes soon.
            if text.len() < SMALL && self.beat <= Instant::now() {
                self.push_head(&mut text);
            }
            if !text.is_empty() {
                return Ok(text.into());
            }
            tokio::select! {
                // The feed, which holds the other end, lives as long as this.
                _ = self.news.changed() => {}
                () = sleep_until(self.beat) => {}
            }
        }
    }

    /// Waits for what is done for it, and begins what is to be done. None: there may be more at once.
    async fn catch_up(&mut self) -> Result<Option<Bytes>, FeedEnd> {
        if self.work.is_empty() {
            self.read_on();
        }
        let done = tokio::select! {
            done = self.work.join_next() => done,
            _ = self.news.changed() => return Ok(None),
            () = sleep_until(self.beat) => {
                self.beat = Instant::now() + BEAT;
                return Ok(Some(Bytes::from_static(text::COMMENT)));
            }
        };
        match done {
            Some(Ok(Work::Joined(joined))) => self.joined = joined,
            Some(Ok(Work::Read(Ok(stretch), large))) => {
                (self.told, self.covered) = (stretch.told, stretch.covered);
                self.feed.metrics.feed_messages.increment(stretch.messages);
                self.waiting = stretch.text.into();
                self.large = large;
                if self.covered >= self.joined.until {
                    // It has caught up, and hears how far.
                    self.beat = Instant::now();
                } else if !self.waiting.is_empty() {
                    self.beat = Instant::now() + BEAT;
                }
            }
            Some(Ok(Work::Read(Err(error), _))) => {
                tracing::error!(%error, "a follower can't be told what the log has");
                return Err(FeedEnd::Failed);
            }
            Some(Err(_)) | None => return Err(FeedEnd::Failed),
        }
        Ok(None)
    }

    fn read_on(&mut self) {
        let Some(until) = self.joined.until else { return };
        let (feed, teams, from) = (self.feed.clone(), self.teams.clone(), (self.told, self.covered));
        self.work.spawn(async move {
            let Ok(turn) = feed.reads.clone().acquire_owned().await else {
                return Work::Read(Err("the service ends".to_owned()), None);
            };
            let large = feed.large.clone().try_acquire_owned().ok();
            let len = if large.is_some() { LARGE } else { SMALL };
            let read = tokio::task::spawn_blocking(move || {
                let active = feed.projections.active();
                let stretch = history::read(feed.store.as_ref(), active, teams.as_deref(), from, until, len);
                drop(turn);
                stretch
            });
            Work::Read(read.await.unwrap_or_else(|error| Err(error.to_string())), large)
        });
    }

    /// What it has missed is read from the log.
    fn join_again(&mut self) {
        let (feed, teams, before) = (self.feed.clone(), self.teams.clone(), self.joined);
        self.work.spawn(async move {
            let joined = tokio::task::spawn_blocking(move || feed.join(teams.as_deref())).await;
            // If that has failed, it will be found to lag again.
            Work::Joined(joined.unwrap_or(before))
        });
    }

    fn piece(&mut self) -> Option<Bytes> {
        if self.waiting.is_empty() {
            return None;
        }
        let piece = self.waiting.split_to(self.waiting.len().min(PIECE));
        if self.waiting.is_empty() {
            self.waiting = Bytes::new();
            self.large = None;
        }
        Some(piece)
    }

    fn push_head(&mut self, text: &mut Vec<u8>) {
        let digest = self.joined.digest;
        let head = HeadMessage { after: self.told, position: self.covered, digest, at: self.feed.clock.now() };
        text::push_head(text, &head);
        self.told = self.covered;
        self.feed.metrics.feed_messages.increment(1);
        self.beat = Instant::now() + BEAT;
    }

    fn is_welcome(&self) -> bool {
        let judged = self.feed.projections.active().judge(&self.credential, None, None, self.feed.clock.now());
        judged.is_ok_and(|verdict| verdict.kind == Kind::Service)
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let gone = if self.handed.elapsed() > STALLED { FeedEnd::Stalled } else { FeedEnd::Left };
        self.feed.metrics.feed_followers.decrement(1);
        self.feed.metrics.feed_ended(self.ended.unwrap_or(gone));
    }
}

impl Feed {
    /// Takes from the ring what a follower of these teams has not been told, at most about [`SMALL`] bytes.
    fn take(
        &self,
        teams: Option<&Teams>,
        joined: &mut Joined,
        (told, covered): (&mut Option<Position>, &mut Option<Position>),
        text: &mut Vec<u8>,
    ) -> Taken {
        let live = self.live.read();
        let Some(skipped) = joined.next.checked_sub(live.gone) else { return Taken::Lagged };
        let mut messages = 0;
        for item in live.ring.range(live.ring.len().min(skipped as usize)..) {
            if text.len() >= SMALL {
                return Taken::Messages(messages);
            }
            joined.next += 1;
            // The commit that was just being applied when the follower joined.
            if Some(item.position) <= *covered {
                continue;
            }
            *covered = Some(item.position);
            if teams.is_none_or(|teams| teams.contains(&item.team)) {
                joined.digest.add_all(item.difference);
                text::push_changes(text, *told, item.position, &item.rest);
                *told = Some(item.position);
                messages += 1;
            }
        }
        *covered = (*covered).max(live.position);
        Taken::Messages(messages)
    }
}
