//! Text cut into pieces for the console: whole lines where they fit.

use core::fmt;

/// Most characters of a piece. A longer line goes out in several, of which the last one ends it.
pub const MOST: usize = 2000;

/// Collects text and hands out pieces.
///
/// What is not printable ASCII becomes `?`: the console belongs to the host, and a terminal obeys control characters.
pub struct Lines<F: FnMut(&[u8])> {
    bytes: [u8; MOST],
    used: usize,
    out: F,
    is_begun: bool,
}

impl<F: FnMut(&[u8])> Lines<F> {
    /// Nothing collected yet. `out` gets the pieces.
    pub const fn new(out: F) -> Self {
        Self { bytes: [0; MOST], used: 0, out, is_begun: false }
    }

    /// Ends the line that has begun, if there is one.
    pub fn finish(&mut self) {
        if self.is_begun {
            self.put(b'\n');
        }
    }

    fn put(&mut self, byte: u8) {
        if let Some(place) = self.bytes.get_mut(self.used) {
            *place = byte;
            self.used += 1;
        }
        let is_end = byte == b'\n';
        self.is_begun = !is_end;
        if is_end || self.used == MOST {
            (self.out)(self.bytes.get(..self.used).unwrap_or_default());
            self.used = 0;
        }
    }
}

impl<F: FnMut(&[u8])> fmt::Write for Lines<F> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            self.put(if matches!(byte, b' '..=b'~' | b'\n') { byte } else { b'?' });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use core::fmt::Write;

    use super::*;

    fn pieces(texts: &[&str]) -> Vec<String> {
        let mut found = Vec::new();
        let mut lines = Lines::new(|piece: &[u8]| found.push(String::from_utf8(piece.to_vec()).unwrap()));
        texts.iter().for_each(|text| lines.write_str(text).unwrap());
        lines.finish();
        found
    }

    #[test]
    fn a_line_goes_out_when_it_ends() {
        assert_eq!(pieces(&["one\ntw", "o\n\nrest"]), ["one\n", "two\n", "\n", "rest\n"]);
        assert_eq!(pieces(&["", "done\n"]), ["done\n"]);
        assert_eq!(pieces(&[]), [""; 0]);
    }

    #[test]
    fn a_long_line_has_one_end() {
        for (len, want) in [(MOST - 1, vec![MOST]), (MOST, vec![MOST, 1]), (MOST + 1, vec![MOST, 2])] {
            let found = pieces(&[&"x".repeat(len)]);
            assert_eq!(found.iter().map(String::len).collect::<Vec<_>>(), want);
            assert_eq!(found.concat().matches('\n').count(), 1);
        }
    }

    #[test]
    fn a_terminal_gets_nothing_that_it_obeys() {
        assert_eq!(pieces(&["a\x1b[2Jb\r\0ä"]), ["a?[2Jb????\n"]);
    }
}
