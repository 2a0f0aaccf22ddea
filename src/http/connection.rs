//! One connection's clock: what it is doing, since when, and how long that may take.

use std::{
    collections::HashMap,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::{Notify, futures::Notified},
    time::Instant,
};

use super::server::Limits;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Phase {
    /// The head of a request is awaited or under way.
    Head = 0,
    /// A request is being answered.
    Busy = 1,
    /// The last request is answered, nothing of the next has come.
    Idle = 2,
    /// Something of the next has come: nearly always its whole head, so that no clock need be read for it.
    Begun = 3,
}

/// What the server has decided about a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Verdict {
    /// Nothing.
    Stay = 0,
    /// End it after the request in flight.
    Finish = 1,
    /// End it if it is idle.
    Evict = 2,
    /// End it at once.
    Cut = 3,
}

/// Shared by the connection's task, its socket and the body of the answer in flight. The task alone ends it.
pub struct Connection {
    number: u64,
    opened: Instant,
    /// Milliseconds since `opened` at which the phase began, if it has a limit, times four, plus the phase: written
    /// together, read together.
    phase: AtomicU64,
    /// Milliseconds since `opened`, plus one, since which the client takes nothing of an answer; 0 if it does.
    stalled: AtomicU64,
    verdict: AtomicU8,
    news: Notify,
}

impl Connection {
    fn now_ms(&self) -> u64 {
        self.opened.elapsed().as_millis() as u64
    }

    /// Enters a phase that has a limit.
    fn enter(&self, phase: Phase) {
        self.phase.store(self.now_ms() * 4 + phase as u64, Relaxed);
    }

    /// Enters a phase that has none.
    fn enter_unlimited(&self, phase: Phase) {
        self.phase.store(phase as u64, Relaxed);
    }

    fn phase(&self) -> (Phase, u64) {
        let packed = self.phase.load(Relaxed);
        let phase = match packed % 4 {
            0 => Phase::Head,
            1 => Phase::Busy,
            2 => Phase::Idle,
            _ => Phase::Begun,
        };
        (phase, packed / 4)
    }

    /// The head is complete. The connection is busy until the answer's body is dropped.
    pub fn begin_request(self: &Arc<Self>) -> Busy {
        self.enter_unlimited(Phase::Busy);
        Busy(Arc::clone(self))
    }

    /// Whether it waits for a next request.
    pub fn is_idle(&self) -> bool {
        self.phase().0 == Phase::Idle
    }

    /// When it will have taken too long, if nothing changes. In the past: it has.
    pub fn deadline(&self, limits: &Limits) -> Instant {
        let (phase, since_ms) = self.phase();
        let limit = match phase {
            Phase::Head => Some(limits.header_timeout),
            // The body has a timer of its own, and how long an answer takes is the handler's affair.
            Phase::Busy | Phase::Begun => None,
            Phase::Idle => Some(limits.idle_timeout),
        };
        // Nobody wakes the task when a phase begins, so it looks often enough to be in time for the shortest limit.
        let shortest =
            limits.header_timeout.min(limits.idle_timeout).min(limits.write_timeout).min(Duration::from_secs(1));
        let look_again = Instant::now() + shortest.max(Duration::from_millis(10));
        let mut deadline = limit.map_or(look_again, |limit| self.opened + Duration::from_millis(since_ms) + limit);
        if let Some(stalled_ms) = self.stalled.load(Relaxed).checked_sub(1) {
            deadline = deadline.min(self.opened + Duration::from_millis(stalled_ms) + limits.write_timeout);
        }
        deadline.min(look_again)
    }

    /// Done when the server has something to say; then see [`Connection::verdict`].
    pub fn told(&self) -> Notified<'_> {
        self.news.notified()
    }

    /// What the server last said.
    pub fn verdict(&self) -> Verdict {
        match self.verdict.load(Relaxed) {
            0 => Verdict::Stay,
            1 => Verdict::Finish,
            2 => Verdict::Evict,
            _ => Verdict::Cut,
        }
    }

    /// The eviction came too late: a request has begun.
    pub fn stay(&self) {
        let _ = self.verdict.compare_exchange(Verdict::Evict as u8, Verdict::Stay as u8, Relaxed, Relaxed);
    }

    fn tell(&self, verdict: Verdict) {
        self.verdict.fetch_max(verdict as u8, Relaxed);
        self.news.notify_one();
    }
}

/// While it lives, a request of the connection is being answered.
pub struct Busy(Arc<Connection>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.enter(Phase::Idle);
    }
}

/// All open connections.
#[derive(Default)]
pub struct Connections {
    open: Mutex<Open>,
    emptied: Notify,
}

#[derive(Default)]
struct Open {
    next_number: u64,
    by_number: HashMap<u64, Arc<Connection>>,
    /// What new ones are told at once, since a client may be accepted while shutdown begins.
    closing: Option<Verdict>,
}

impl Connections {
    /// Registers a new connection, which must be taken out with [`Connections::closed`].
    pub fn open(&self) -> Arc<Connection> {
        let mut open = self.open.lock();
        let number = open.next_number;
        open.next_number += 1;
        let connection = Arc::new(Connection {
            number,
            opened: Instant::now(),
            phase: AtomicU64::new(Phase::Head as u64),
            stalled: AtomicU64::new(0),
            verdict: AtomicU8::new(Verdict::Stay as u8),
            news: Notify::new(),
        });
        open.by_number.insert(number, Arc::clone(&connection));
        if let Some(verdict) = open.closing {
            connection.tell(verdict);
        }
        connection
    }

    /// Takes a connection out.
    pub fn closed(&self, connection: &Connection) {
        let mut open = self.open.lock();
        open.by_number.remove(&connection.number);
        if open.by_number.is_empty() {
            self.emptied.notify_waiters();
        }
    }

    /// Tells all, and says how many.
    pub fn close_all(&self, verdict: Verdict) -> usize {
        let mut open = self.open.lock();
        open.closing = Some(verdict);
        open.by_number.values().for_each(|connection| connection.tell(verdict));
        open.by_number.len()
    }

    /// Done when there is none.
    pub async fn empty(&self) {
        loop {
            let mut emptied = std::pin::pin!(self.emptied.notified());
            emptied.as_mut().enable();
            if self.open.lock().by_number.is_empty() {
                return;
            }
            emptied.await;
        }
    }

    /// Asks the connection that has been idle longest to make place.
    pub fn evict_idlest(&self) {
        let open = self.open.lock();
        let idle = open.by_number.values().filter(|connection| connection.is_idle());
        if let Some(idlest) =
            idle.min_by_key(|connection| connection.opened + Duration::from_millis(connection.phase().1))
        {
            idlest.tell(Verdict::Evict);
        }
    }
}

/// A socket that tells its connection when the client sends and when it takes nothing.
pub struct Watched<S> {
    stream: S,
    connection: Arc<Connection>,
}

impl<S> Watched<S> {
    /// Watches a socket on behalf of a connection.
    pub const fn new(stream: S, connection: Arc<Connection>) -> Self {
        Self { stream, connection }
    }

    fn wrote<T>(&self, poll: Poll<T>) -> Poll<T> {
        let stalled = &self.connection.stalled;
        if poll.is_ready() {
            if stalled.load(Relaxed) != 0 {
                stalled.store(0, Relaxed);
            }
        } else if stalled.load(Relaxed) == 0 {
            stalled.store(self.connection.now_ms() + 1, Relaxed);
        }
        poll
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let poll = Pin::new(&mut self.stream).poll_read(context, buffer);
        match self.connection.phase().0 {
            Phase::Idle if buffer.filled().len() > before => self.connection.enter_unlimited(Phase::Begun),
            // It was not the whole head: from here on there is a limit.
            Phase::Begun if poll.is_pending() => self.connection.enter(Phase::Head),
            _ => {}
        }
        poll
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.wrote(poll)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.wrote(poll)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
