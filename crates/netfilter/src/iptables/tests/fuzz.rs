//! Mutated texts are parsed without a panic and round-trip.

use std::path::Path;

use super::*;

/// xorshift64*: the same texts in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % n.max(1)
    }
}

const PIECES: [&str; 24] = [
    "!",
    "-m",
    "-j",
    "-g",
    "\"",
    "\\",
    " ",
    "\n",
    "--dport",
    "-p tcp",
    "::1",
    "1.2.3.4/33",
    "[1:2]",
    "COMMIT",
    "*nat",
    ":X - [0:0]",
    "-1",
    "0xffffffff",
    "4294967296",
    "--",
    "=",
    ",",
    "é",
    "-D X 1",
];

fn corpus() -> Vec<String> {
    let mut all = Vec::new();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata");
    for folder in ["observed", "fuzz/iptables"] {
        let Ok(entries) = std::fs::read_dir(root.join(folder)) else {
            panic!("testdata/{folder} is missing");
        };
        for entry in entries {
            let path = entry.unwrap().path();
            let is_input =
                folder != "observed" || path.extension().is_some_and(|e| e == "iptables-save");
            if is_input {
                all.push(String::from_utf8_lossy(&std::fs::read(path).unwrap()).into_owned());
            }
        }
    }
    assert!(all.len() > 22);
    all
}

fn check(family: Family, text: &str) {
    super::super::fuzz_one(family, text.as_bytes());
}

#[test]
fn undamaged_texts_round_trip() {
    for text in corpus() {
        check(Family::Ipv4, &text);
        check(Family::Ipv6, &text);
    }
}

#[test]
fn mutated_lines_never_panic_and_round_trip() {
    let corpus = corpus();
    let lines: Vec<&str> = corpus.iter().flat_map(|t| t.lines()).collect();
    let mut random = Random(0x5eed);
    for _ in 0..30_000 {
        let mut line: Vec<char> = lines[random.below(lines.len())].chars().collect();
        for _ in 0..=random.below(4) {
            let at = random.below(line.len() + 1);
            match random.below(4) {
                0 if at < line.len() => drop(line.remove(at)),
                1 => {
                    let piece = PIECES[random.below(PIECES.len())];
                    line.splice(at..at, piece.chars());
                }
                2 => {
                    let end = (at + random.below(20)).min(line.len());
                    line.drain(at..end);
                }
                _ => {
                    let other = lines[random.below(lines.len())];
                    let words: Vec<&str> = other.split(' ').collect();
                    let from = random.below(words.len());
                    let some = words[from..].join(" ");
                    line.splice(at..at, some.chars());
                }
            }
        }
        let line: String = line.into_iter().collect();
        let family = if random.below(2) == 0 {
            Family::Ipv4
        } else {
            Family::Ipv6
        };
        check(family, &format!("*nat\n{line}\nCOMMIT\n"));
    }
}
