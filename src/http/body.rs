//! The bodies of requests, limited in time and size, and of answers, which end a connection's busy phase.

use std::{
    future::Future as _,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http::StatusCode;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep, sleep_until};

use super::{connection::Busy, problem::Problem};

/// Why a request's body did not arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// It is longer than so many bytes.
    #[error("the body is longer than {0} bytes")]
    TooLong(usize),
    /// It was not there in time.
    #[error("the body did not arrive in time")]
    TooSlow,
    /// The connection broke, or the framing did.
    #[error("the body did not arrive whole")]
    Broken,
}

impl From<BodyError> for Problem {
    fn from(error: BodyError) -> Self {
        match error {
            BodyError::TooLong(limit) => Self::too_large(limit),
            BodyError::TooSlow => {
                Self::new(StatusCode::REQUEST_TIMEOUT, "body_timeout", "The body did not arrive in time.")
            }
            BodyError::Broken => Self::bad_request("incomplete_body", "The body did not arrive whole."),
        }
    }
}

/// A request's body that ends with an error when it is too long or too slow.
pub struct RequestBody {
    incoming: Incoming,
    len_max: usize,
    len: usize,
    timeout: Duration,
    /// Set the first time the body has to be waited for; most bodies come with their head and never need it.
    timer: Option<Pin<Box<Sleep>>>,
}

impl RequestBody {
    /// Limits a body to so many bytes, and to so much time from the first wait.
    pub const fn new(incoming: Incoming, len_max: usize, timeout: Duration) -> Self {
        Self { incoming, len_max, len: 0, timeout, timer: None }
    }

    /// The whole body, if it has at most `len_max` bytes.
    ///
    /// # Errors
    /// [`BodyError`]; it converts into a 4xx problem.
    pub async fn collect_up_to(mut self, len_max: usize) -> Result<Bytes, BodyError> {
        self.len_max = self.len_max.min(len_max);
        if self.incoming.is_end_stream() {
            return Ok(Bytes::new());
        }
        // Announced as too long: it need not come first.
        if self.incoming.size_hint().lower() > self.len_max as u64 {
            return Err(BodyError::TooLong(self.len_max));
        }
        let mut whole = Bytes::new();
        let mut pieces = BytesMut::new();
        while let Some(frame) = self.frame().await {
            let Ok(piece) = frame?.into_data() else { continue };
            if whole.is_empty() && pieces.is_empty() {
                // Nearly always the only one, and then nothing is copied.
                whole = piece;
            } else {
                if pieces.is_empty() {
                    pieces.extend_from_slice(&whole);
                }
                pieces.extend_from_slice(&piece);
            }
        }
        Ok(if pieces.is_empty() { whole } else { pieces.freeze() })
    }

    /// Drops what has come of it, without waiting; whether that was all.
    pub async fn is_there_whole(mut self) -> bool {
        self.incoming.is_end_stream()
            || std::future::poll_fn(|context| {
                loop {
                    match Pin::new(&mut self).poll_frame(context) {
                        Poll::Ready(Some(Ok(_))) => {}
                        Poll::Ready(None) => return Poll::Ready(true),
                        Poll::Ready(Some(Err(_))) | Poll::Pending => return Poll::Ready(false),
                    }
                }
            })
            .await
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        match Pin::new(&mut this.incoming).poll_frame(context) {
            Poll::Ready(Some(Ok(frame))) => {
                this.len = this.len.saturating_add(frame.data_ref().map_or(0, Bytes::len));
                if this.len > this.len_max {
                    return Poll::Ready(Some(Err(BodyError::TooLong(this.len_max))));
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(_))) => Poll::Ready(Some(Err(BodyError::Broken))),
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending => {
                let timeout = this.timeout;
                let timer = this.timer.get_or_insert_with(|| Box::pin(sleep_until(Instant::now() + timeout)));
                ready!(timer.as_mut().poll(context));
                Poll::Ready(Some(Err(BodyError::TooSlow)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

/// An answer's body. The connection is busy until it is dropped.
pub struct ReplyBody {
    content: Content,
    _busy: Busy,
}

enum Content {
    Whole(Bytes),
    Routed(axum::body::Body),
}

impl ReplyBody {
    /// A body that is in memory.
    pub const fn whole(bytes: Bytes, busy: Busy) -> Self {
        Self { content: Content::Whole(bytes), _busy: busy }
    }

    /// A body of the router's.
    pub const fn routed(body: axum::body::Body, busy: Busy) -> Self {
        Self { content: Content::Routed(body), _busy: busy }
    }
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        match &mut self.content {
            Content::Whole(bytes) if bytes.is_empty() => Poll::Ready(None),
            Content::Whole(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Content::Routed(body) => Pin::new(body).poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Whole(bytes) => bytes.is_empty(),
            Content::Routed(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Content::Routed(body) => body.size_hint(),
        }
    }
}
