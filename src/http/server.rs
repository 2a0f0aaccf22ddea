//! The accept loop: who may connect, for how long, and which requests go past the router.
//!
//! It exists because `axum::serve` sets no timers: a client that opens a socket and says nothing would hold it for ever.
//! It speaks HTTP/1.1 only. A gateway in front may speak HTTP/2 to its clients; the connections it keeps to us are few
//! and long, where multiplexing gains nothing and would double what has to be bounded.

use std::{convert::Infallible, future::Future, io, net::SocketAddr, pin::pin, sync::Arc, task::Poll, time::Duration};

use axum::Router;
use bytes::Bytes;
use http::{Method, Request, Response, request::Parts};
use http_body::Body as _;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, sleep, sleep_until, timeout},
};
use tower::Service as _;

use super::{
    body::{ReplyBody, RequestBody},
    connection::{Connection, Connections, Verdict, Watched},
    forward_auth,
    metrics::Metrics,
    problem::Problem,
    routes,
};

/// The longest body of a route that sets no other limit, in bytes.
pub const BODY_BYTES_DEFAULT: usize = 64 * 1024;
/// The longest body of any route, in bytes.
pub const BODY_BYTES_MAX: usize = 1024 * 1024;

/// How often the histograms' samples are folded together, which otherwise wait in memory for the next scrape.
const UPKEEP_EVERY: Duration = Duration::from_secs(5);

/// What a client may take, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections at once; the next one waits in the kernel's queue until one ends.
    pub connections_max: usize,
    /// From the first byte that may be sent to the end of the request's head.
    pub header_timeout: Duration,
    /// From the end of the head to the end of the body.
    pub body_timeout: Duration,
    /// Between an answer and the next request on the same connection.
    pub idle_timeout: Duration,
    /// How long an answer may wait for the client to take more of it.
    pub write_timeout: Duration,
    /// The request line and all headers, in bytes. There are at most 100 headers.
    pub header_bytes_max: usize,
    /// How long requests in flight may take to end once shutdown has begun.
    pub drain_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 4096,
            header_timeout: Duration::from_secs(8),
            body_timeout: Duration::from_secs(8),
            idle_timeout: Duration::from_secs(60),
            write_timeout: Duration::from_secs(8),
            header_bytes_max: 32 * 1024,
            drain_timeout: Duration::from_secs(10),
        }
    }
}

impl Limits {
    /// The same, with no more connections than the process may open files, less what the log and the indexes need.
    #[must_use]
    pub fn within_open_files(mut self) -> Self {
        const RESERVED: usize = 128;
        if let Some(open_files_max) = open_files_max() {
            self.connections_max = self.connections_max.min(open_files_max.saturating_sub(RESERVED).max(16));
        }
        self
    }
}

/// Lets the process open as many files as the system lets it ask for: every connection is one, and followers of the feed
/// stay connected. Where that is refused, the limit stays.
pub fn raise_open_files() {
    if let Err(error) = rlimit::increase_nofile_limit(u64::MAX) {
        tracing::debug!(%error, "the limit of open files stays as it is");
    }
}

/// The soft limit of open files, where the system tells it as a file.
pub fn open_files_max() -> Option<usize> {
    let limits = std::fs::read_to_string("/proc/self/limits").ok()?;
    limits.lines().find_map(|line| line.strip_prefix("Max open files"))?.split_whitespace().next()?.parse().ok()
}

/// What answers a request before the router sees it: verifications, where a router's work would cost more than the
/// answer itself. The access log, request ids and rate limits of the router's middleware do not apply to it.
pub trait FastPath: Send + Sync + 'static {
    /// Whether this request is for it. Everything else goes to the router.
    fn takes(&self, method: &Method, path_and_query: &str) -> bool {
        (method == Method::POST && path_and_query == routes::verify::PATH) || forward_auth::is_asked(path_and_query)
    }

    /// Answers it. `body` is already limited in time and to [`BODY_BYTES_MAX`]; `peer` is the socket's other end.
    fn answer(&self, head: Parts, body: RequestBody, peer: SocketAddr) -> impl Future<Output = Response<Bytes>> + Send;
}

/// No fast path: the router answers everything.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoFastPath;

impl FastPath for NoFastPath {
    fn takes(&self, _: &Method, _: &str) -> bool {
        false
    }

    async fn answer(&self, _: Parts, _: RequestBody, _: SocketAddr) -> Response<Bytes> {
        Problem::not_found().into_http()
    }
}

/// The socket's other end, among a routed request's extensions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer(pub SocketAddr);

/// Where clients connect.
#[derive(Debug)]
pub enum Listener {
    /// An address and a port.
    Tcp(TcpListener),
    /// A socket in the file system. Whoever may write to it is on this machine: their address is 127.0.0.1, port 0.
    Unix(UnixListener),
}

impl From<TcpListener> for Listener {
    fn from(listener: TcpListener) -> Self {
        Self::Tcp(listener)
    }
}

impl From<UnixListener> for Listener {
    fn from(listener: UnixListener) -> Self {
        Self::Unix(listener)
    }
}

/// A client that has connected.
enum Stream {
    Tcp(TcpStream, SocketAddr),
    Unix(UnixStream),
}

impl Listener {
    async fn accept(&self) -> io::Result<Stream> {
        match self {
            Self::Tcp(listener) => listener.accept().await.map(|(stream, peer)| Stream::Tcp(stream, peer)),
            Self::Unix(listener) => listener.accept().await.map(|(stream, _)| Stream::Unix(stream)),
        }
    }
}

/// How a server ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drained {
    /// Connections that had to be cut because their request did not end in time.
    pub cut: usize,
}

/// An HTTP/1.1 server over one listener.
pub struct Server<F> {
    limits: Limits,
    router: Router,
    fast: F,
    metrics: Arc<Metrics>,
    connections: Arc<Connections>,
}

impl<F: FastPath> Server<F> {
    /// A server that is not running yet.
    pub fn new(limits: Limits, router: Router, fast: F, metrics: Arc<Metrics>) -> Self {
        Self { limits, router, fast, metrics, connections: Arc::default() }
    }

    /// Serves until `shutdown` is done, then takes no more connections, lets requests in flight end, and returns.
    pub async fn run(self, listener: impl Into<Listener>, shutdown: impl Future<Output = ()> + Send) -> Drained {
        let listener = listener.into();
        let server = Arc::new(self);
        let places = Arc::new(Semaphore::new(server.limits.connections_max));
        let mut shutdown = pin!(shutdown);
        let mut upkeep = tokio::time::interval(UPKEEP_EVERY);
        loop {
            tokio::select! {
                biased;
                () = &mut shutdown => break,
                _ = upkeep.tick() => server.metrics.upkeep(),
                (stream, place) = accept(&server, &listener, &places) => {
                    let server = Arc::clone(&server);
                    match stream {
                        Stream::Tcp(stream, peer) => drop(tokio::spawn(server.serve(stream, peer, place))),
                        Stream::Unix(stream) => {
                            drop(tokio::spawn(server.serve(stream, SocketAddr::from(([127, 0, 0, 1], 0)), place)));
                        }
                    }
                }
            }
        }
        drop(listener);
        server.drain().await
    }

    async fn drain(&self) -> Drained {
        self.connections.close_all(Verdict::Finish);
        if timeout(self.limits.drain_timeout, self.connections.empty()).await.is_ok() {
            return Drained { cut: 0 };
        }
        let cut = self.connections.close_all(Verdict::Cut);
        // Cutting needs no client: the tasks only have to be polled once more.
        let _ = timeout(Duration::from_secs(1), self.connections.empty()).await;
        Drained { cut }
    }

    async fn serve<S: AsyncRead + AsyncWrite + Unpin + Send>(
        self: Arc<Self>,
        stream: S,
        peer: SocketAddr,
        _place: OwnedSemaphorePermit,
    ) {
        let mut end = End { server: &self, connection: self.connections.open(), why: Closed::Failed };
        self.metrics.connections_open.increment(1);
        end.why = self.talk(stream, peer, &end.connection).await;
    }

    async fn talk<S: AsyncRead + AsyncWrite + Unpin + Send>(
        self: &Arc<Self>,
        stream: S,
        peer: SocketAddr,
        connection: &Arc<Connection>,
    ) -> Closed {
        let service = service_fn(|request| self.dispatch(request, peer, connection));
        let mut http = pin!(
            http1::Builder::new()
                .header_read_timeout(None)
                // Answers are small: copying one behind its head costs less than a vectored write's set-up.
                .writev(false)
                .max_header_size(self.limits.header_bytes_max)
                .max_buf_size(self.limits.header_bytes_max.max(16 * 1024))
                .serve_connection(TokioIo::new(Watched::new(stream, Arc::clone(connection))), service)
        );
        let mut check = pin!(sleep_until(connection.deadline(&self.limits)));
        let mut told = pin!(connection.told());
        let mut finishing = false;
        std::future::poll_fn(|context| {
            if let Poll::Ready(result) = http.as_mut().poll(context) {
                return Poll::Ready(if result.is_ok() { Closed::Ended } else { Closed::Failed });
            }
            while told.as_mut().poll(context).is_ready() {
                told.set(connection.told());
                match connection.verdict() {
                    Verdict::Stay => {}
                    Verdict::Finish if finishing => {}
                    Verdict::Finish => {
                        finishing = true;
                        http.as_mut().graceful_shutdown();
                        if http.as_mut().poll(context).is_ready() {
                            return Poll::Ready(Closed::Ended);
                        }
                    }
                    Verdict::Evict if connection.is_idle() => return Poll::Ready(Closed::Evicted),
                    Verdict::Evict => connection.stay(),
                    Verdict::Cut => return Poll::Ready(Closed::Cut),
                }
            }
            while check.as_mut().poll(context).is_ready() {
                let deadline = connection.deadline(&self.limits);
                if deadline <= Instant::now() {
                    return Poll::Ready(Closed::TimedOut);
                }
                check.as_mut().reset(deadline);
            }
            Poll::Pending
        })
        .await
    }

    async fn dispatch(
        self: &Arc<Self>,
        request: Request<Incoming>,
        peer: SocketAddr,
        connection: &Arc<Connection>,
    ) -> Result<Response<ReplyBody>, Infallible> {
        let busy = connection.begin_request();
        let (mut head, body) = request.into_parts();
        let declared_len = body.size_hint().lower();
        let body = RequestBody::new(body, BODY_BYTES_MAX, self.limits.body_timeout);
        if self.fast.takes(&head.method, head.uri.path_and_query().map_or("", http::uri::PathAndQuery::as_str)) {
            return Ok(self.fast.answer(head, body, peer).await.map(|bytes| ReplyBody::whole(bytes, busy)));
        }
        if declared_len > BODY_BYTES_MAX as u64 {
            return Ok(Problem::too_large(BODY_BYTES_MAX)
                .into_http::<Bytes>()
                .map(|bytes| ReplyBody::whole(bytes, busy)));
        }
        head.extensions.insert(Peer(peer));
        let request = Request::from_parts(head, axum::body::Body::new(body));
        let answer = self.router.clone().call(request).await.unwrap_or_else(|never| match never {});
        Ok(answer.map(|body| ReplyBody::routed(body, busy)))
    }
}

/// Takes a connection off the books when its task ends, even by a panic.
struct End<'a, F> {
    server: &'a Server<F>,
    connection: Arc<Connection>,
    why: Closed,
}

impl<F> Drop for End<'_, F> {
    fn drop(&mut self) {
        self.server.connections.closed(&self.connection);
        self.server.metrics.connections_open.decrement(1);
        self.server.metrics.connection_closed(self.why);
    }
}

/// Why a connection ended, for the metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closed {
    /// The client or the protocol ended it.
    Ended,
    /// It broke, or what came was not HTTP.
    Failed,
    /// A timeout ran out.
    TimedOut,
    /// It was idle and its place was needed.
    Evicted,
    /// Shutdown would not wait longer.
    Cut,
}

impl Closed {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 5] = [Self::Ended, Self::Failed, Self::TimedOut, Self::Evicted, Self::Cut];

    /// Its label in the metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ended => "ended",
            Self::Failed => "failed",
            Self::TimedOut => "timeout",
            Self::Evicted => "evicted",
            Self::Cut => "cut",
        }
    }
}

/// Waits for a place, then for a client. Errors of accept are the system's or the client's and never end the loop.
async fn accept<F: FastPath>(
    server: &Server<F>,
    listener: &Listener,
    places: &Arc<Semaphore>,
) -> (Stream, OwnedSemaphorePermit) {
    let place = loop {
        match Arc::clone(places).try_acquire_owned() {
            Ok(place) => break place,
            Err(_) => {
                // Full. A client that is only keeping its connection warm makes place; one that is served doesn't.
                server.connections.evict_idlest();
                if let Ok(Ok(place)) = timeout(Duration::from_millis(50), Arc::clone(places).acquire_owned()).await {
                    break place;
                }
            }
        }
    };
    loop {
        match listener.accept().await {
            Ok(stream) => {
                if let Stream::Tcp(stream, _) = &stream
                    && let Err(error) = stream.set_nodelay(true)
                {
                    tracing::debug!(%error, "a connection ended before it was served");
                    continue;
                }
                return (stream, place);
            }
            Err(error) if is_of_the_client(&error) => {}
            Err(error) => {
                tracing::warn!(%error, "can't accept connections; trying again");
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

fn is_of_the_client(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

/// Done when the process is asked to end: SIGTERM or SIGINT.
///
/// # Errors
/// If the system refuses a signal handler.
pub fn asked_to_end() -> io::Result<impl Future<Output = ()> + Send> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}
