//! Deterministic damage to a corpus, so that tests on the stable toolchain feed parsers hostile input.

/// Return the next number of a small generator (Marsaglia's xorshift).
pub(crate) fn random(seed: &mut u64) -> usize {
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    usize::try_from(*seed >> 11).unwrap_or(0)
}

/// Bytes with a meaning for the parsers.
const SALT: &[u8] = b" \n\t,;{}:./-!\"0x9azA\\@$#<>=&|";

/// Return a part of the input with a few bytes flipped, doubled, cut out or moved.
pub(crate) fn mutate(input: &[u8], seed: &mut u64) -> Vec<u8> {
    let mut out = input.to_vec();
    if random(seed).is_multiple_of(2) && !out.is_empty() {
        let from = random(seed) % out.len();
        let len = 1 + random(seed) % 400;
        out = out[from..(from + len).min(out.len())].to_vec();
    }
    for _ in 0..1 + random(seed) % 4 {
        if out.is_empty() {
            break;
        }
        let at = random(seed) % out.len();
        match random(seed) % 5 {
            0 => out[at] = SALT[random(seed) % SALT.len()],
            1 => out.truncate(at),
            2 => {
                let end = (at + 1 + random(seed) % 20).min(out.len());
                out.drain(at..end);
            }
            3 => {
                let end = (at + 1 + random(seed) % 20).min(out.len());
                let part = out[at..end].to_vec();
                let to = random(seed) % out.len();
                out.splice(to..to, part);
            }
            _ => out[at] = u8::try_from(random(seed) % 256).unwrap_or(0),
        }
    }
    out
}
