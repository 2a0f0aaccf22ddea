//! What the benches of verification share.

use std::{hint::black_box, time::Instant};

use keyledger_events::secret::{Kind, RANDOM_LEN, SECRET_LEN, Secret};

/// SplitMix64.
pub struct Random(pub u64);

impl Random {
    /// The next one.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }
}

/// The secret of this number.
pub fn secret(number: u64) -> Secret {
    let mut random = Random(number);
    let mut digits = [0; RANDOM_LEN];
    digits.iter_mut().for_each(|digit| *digit = (random.next() % 62) as u8);
    Secret::new(Kind::Integration, &digits)
}

/// The middle one.
pub fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// Nanoseconds a key, all of which must be accepted.
pub fn nanoseconds(presented: &[[u8; SECRET_LEN]], mut accepts: impl FnMut(&[u8; SECRET_LEN]) -> bool) -> f64 {
    let began = Instant::now();
    let accepted = presented.iter().filter(|token| accepts(black_box(token))).count();
    let elapsed = began.elapsed();
    assert_eq!(accepted, presented.len());
    elapsed.as_nanos() as f64 / presented.len() as f64
}
