//! The bytes of a segment: its header and its frames. `FORMAT.md` §6 is this file in prose.

use crate::{
    CommitNumber, Position,
    commit::{COMMIT_LEN_MAX, CommitRef},
    store::Damage,
};

/// The first bytes of a segment.
const SEGMENT_MAGIC: [u8; 8] = *b"KLEDGSEG";
/// The segment format this crate writes.
const SEGMENT_FORMAT: u32 = 1;
/// Bytes before a segment's first frame.
pub(super) const SEGMENT_HEADER_LEN: usize = 64;

/// The first bytes of a frame.
const FRAME_MAGIC: [u8; 4] = *b"KLF1";
/// Bytes before a frame's body.
pub(super) const FRAME_HEADER_LEN: usize = 32;
/// Every frame begins at a multiple of this.
pub(super) const ALIGNMENT: usize = 8;
/// The longest frame.
pub(super) const FRAME_LEN_MAX: usize = frame_len(COMMIT_LEN_MAX);

/// What a segment says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SegmentHeader {
    pub first_commit: CommitNumber,
    pub first_position: Position,
}

impl SegmentHeader {
    pub fn encode(&self) -> [u8; SEGMENT_HEADER_LEN] {
        let mut out = [0; SEGMENT_HEADER_LEN];
        out[..8].copy_from_slice(&SEGMENT_MAGIC);
        out[8..12].copy_from_slice(&SEGMENT_FORMAT.to_le_bytes());
        out[16..24].copy_from_slice(&self.first_commit.0.to_le_bytes());
        out[24..32].copy_from_slice(&self.first_position.0.to_le_bytes());
        let crc = crc32c::crc32c(&out[16..]);
        out[12..16].copy_from_slice(&crc.to_le_bytes());
        out
    }

    pub fn parse(bytes: &[u8]) -> Result<Self, Damage> {
        let bytes: &[u8; SEGMENT_HEADER_LEN] =
            bytes.first_chunk().ok_or_else(|| Damage::Shape("segment header cut off".into()))?;
        if bytes[..8] != SEGMENT_MAGIC {
            return Err(Damage::Shape("not a segment of a keyledger log".into()));
        }
        let format = u32_at(bytes, 8);
        if format != SEGMENT_FORMAT {
            return Err(Damage::Shape(format!("unknown segment format {format}")));
        }
        if u32_at(bytes, 12) != crc32c::crc32c(&bytes[16..]) {
            return Err(Damage::Checksum);
        }
        Ok(Self { first_commit: CommitNumber(u64_at(bytes, 16)), first_position: Position(u64_at(bytes, 24)) })
    }
}

/// The fixed part of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FrameHeader {
    crc: u32,
    /// Of the body, in bytes.
    pub body_len: usize,
    /// How many commits before this one were written in the same batch. Everything before those was durable when this
    /// frame was written.
    pub batch_distance: u32,
    pub number: CommitNumber,
    pub first_position: Position,
}

impl FrameHeader {
    /// Reads the fixed part; the checksum is not looked at.
    pub fn parse(bytes: &[u8; FRAME_HEADER_LEN]) -> Result<Self, Damage> {
        if bytes[..4] != FRAME_MAGIC {
            return Err(Damage::Shape("not a frame".into()));
        }
        let body_len = u32_at(bytes, 8) as usize;
        if body_len > COMMIT_LEN_MAX {
            return Err(Damage::Shape(format!("a frame of {body_len} bytes")));
        }
        Ok(Self {
            crc: u32_at(bytes, 4),
            body_len,
            batch_distance: u32_at(bytes, 12),
            number: CommitNumber(u64_at(bytes, 16)),
            first_position: Position(u64_at(bytes, 24)),
        })
    }

    /// Of the whole frame with its padding, in bytes.
    pub fn frame_len(&self) -> usize {
        frame_len(self.body_len)
    }

    /// Whether the checksum of the whole frame holds.
    pub fn checks(&self, frame: &[u8]) -> bool {
        crc32c::crc32c(&frame[8..]) == self.crc
    }

    /// The first commit of the batch it was written in.
    pub fn batch_start(&self) -> u64 {
        self.number.0.saturating_sub(u64::from(self.batch_distance))
    }
}

/// A frame where it lies, its checksum and its commit's shape looked at.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    /// The commit's number.
    pub number: CommitNumber,
    /// The position of its first event.
    pub first_position: Position,
    /// Where the frame begins in its segment, in bytes.
    pub offset: u64,
    /// The commit's bytes.
    pub body: &'a [u8],
    /// The commit.
    pub commit: CommitRef<'a>,
    /// How many commits before this one were written in the same batch.
    pub batch_distance: u32,
}

/// Appends a frame to `out`, whose length is a multiple of [`ALIGNMENT`].
pub(super) fn encode(out: &mut Vec<u8>, number: CommitNumber, first: Position, batch_distance: u32, body: &[u8]) {
    let start = out.len();
    out.extend_from_slice(&FRAME_MAGIC);
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&(body.len() as u32).to_le_bytes());
    out.extend_from_slice(&batch_distance.to_le_bytes());
    out.extend_from_slice(&number.0.to_le_bytes());
    out.extend_from_slice(&first.0.to_le_bytes());
    out.extend_from_slice(body);
    out.resize(start + frame_len(body.len()), 0);
    let crc = crc32c::crc32c(&out[start + 8..]);
    out[start + 4..start + 8].copy_from_slice(&crc.to_le_bytes());
}

/// The length of a frame with a body of so many bytes.
pub(super) const fn frame_len(body_len: usize) -> usize {
    (FRAME_HEADER_LEN + body_len).next_multiple_of(ALIGNMENT)
}

/// Checks everything of a whole frame that its own bytes can tell.
pub(super) fn check<'a>(header: &FrameHeader, bytes: &'a [u8], offset: u64) -> Result<Frame<'a>, Damage> {
    if header.checks(bytes) { shape(header, bytes, offset) } else { Err(Damage::Checksum) }
}

/// Looks at the commit in a frame whose checksum holds.
pub(super) fn shape<'a>(header: &FrameHeader, bytes: &'a [u8], offset: u64) -> Result<Frame<'a>, Damage> {
    let body = &bytes[FRAME_HEADER_LEN..FRAME_HEADER_LEN + header.body_len];
    let commit = CommitRef::parse(body).map_err(|error| Damage::Shape(error.to_string()))?;
    let FrameHeader { number, first_position, batch_distance, .. } = *header;
    Ok(Frame { number, first_position, offset, body, commit, batch_distance })
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::store::contract::Author;

    fn sample() -> Vec<u8> {
        let mut out = Vec::new();
        encode(&mut out, CommitNumber(7), Position(9), 2, Author::new(1).propose_sample(2).body.bytes());
        out
    }

    fn parse(bytes: &[u8]) -> Result<(FrameHeader, usize), Damage> {
        let header = bytes.first_chunk().ok_or(Damage::Checksum)?;
        let header = FrameHeader::parse(header)?;
        let frame = bytes.get(..header.frame_len()).ok_or(Damage::Checksum)?;
        check(&header, frame, 0).map(|frame| (header, frame.body.len()))
    }

    #[test]
    fn a_frame_comes_back_and_no_bit_of_it_may_change() {
        let bytes = sample();
        let (header, body_len) = parse(&bytes).unwrap();
        assert_eq!((header.number, header.first_position, header.batch_start()), (CommitNumber(7), Position(9), 5));
        assert_eq!(bytes.len(), frame_len(body_len));
        for bit in 0..bytes.len() * 8 {
            let mut bytes = bytes.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(parse(&bytes).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_segment_header_comes_back_and_no_bit_of_it_may_change() {
        let header = SegmentHeader { first_commit: CommitNumber(3), first_position: Position(1 << 40) };
        let bytes = header.encode();
        assert_eq!(SegmentHeader::parse(&bytes), Ok(header));
        for bit in 0..bytes.len() * 8 {
            let mut bytes = bytes;
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(SegmentHeader::parse(&bytes).is_err(), "bit {bit}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_parsers_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        ) {
            let _ = (SegmentHeader::parse(&bytes), parse(&bytes));
            let (mut frame, mut segment) = (sample(), SegmentHeader::parse(&bytes).ok().map(|header| header.encode()));
            for (at, with) in flips {
                *at.get_mut(&mut frame) = with;
                if let Some(segment) = &mut segment { segment[0] = with }
            }
            let _ = parse(&frame);
        }
    }
}
