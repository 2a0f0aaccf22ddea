//! All cores at work on one log: pieces are read in turn, hashed and decoded side by side, and folded in order.

use std::{
    collections::BTreeMap,
    num::NonZero,
    sync::{Mutex, PoisonError, mpsc},
    thread,
};

use keyledger_events::store::ReadError;

use super::piece::Piece;

/// Where commits come from, in order.
pub(super) trait Source: Send {
    /// Fills an empty piece; false at the end, when it stays empty.
    fn fill(&mut self, piece: &mut Piece) -> Result<bool, ReadError>;
}

/// Pieces under way for each thread: it bounds the memory.
const PIECES_PER_THREAD: usize = 6;

struct Reader<'a> {
    source: &'a mut dyn Source,
    sequence: u64,
    ended: bool,
}

impl Reader<'_> {
    /// Fills a piece; none at the end.
    fn fill(&mut self, mut piece: Piece) -> Option<Piece> {
        if self.ended {
            return None;
        }
        piece.reset();
        match self.source.fill(&mut piece) {
            Ok(true) => {}
            Ok(false) => self.ended = true,
            Err(error) => {
                piece.end = Some(error);
                self.ended = true;
            }
        }
        piece.sequence = self.sequence;
        self.sequence += 1;
        Some(piece)
    }
}

/// Hands every piece over, in order, until `fold` breaks off with an error.
pub(super) fn run<E>(
    source: &mut dyn Source,
    cuts: &[u64],
    mut fold: impl FnMut(&mut Piece) -> Result<(), E>,
) -> Result<(), E> {
    let threads = thread::available_parallelism().map_or(1, NonZero::get);
    let reader = Mutex::new(Reader { source, sequence: 0, ended: false });
    thread::scope(|scope| {
        let (sender, receiver) = mpsc::channel();
        // Owned in here: dropped with this closure, they tell the threads that nobody folds any more.
        let mut give_back = Vec::with_capacity(threads);
        for owner in 0..threads {
            let (sender, reader) = (sender.clone(), &reader);
            // A thread gets its own pieces back, so that what it has allocated is freed where it came from.
            let (own, empty) = mpsc::channel();
            for _ in 0..PIECES_PER_THREAD {
                let _ = own.send(Piece::of(owner));
            }
            give_back.push(own);
            scope.spawn(move || {
                while let Ok(piece) = empty.recv() {
                    let piece = reader.lock().unwrap_or_else(PoisonError::into_inner).fill(piece);
                    let Some(mut piece) = piece else { break };
                    piece.derive(cuts);
                    if sender.send(piece).is_err() {
                        break;
                    }
                }
            });
        }
        drop(sender);
        let mut early = BTreeMap::new();
        let mut expected = 0;
        for piece in receiver {
            early.insert(piece.sequence, piece);
            while let Some(mut piece) = early.remove(&expected) {
                expected += 1;
                fold(&mut piece)?;
                let _ = give_back[piece.owner].send(piece);
            }
        }
        Ok(())
    })
}
