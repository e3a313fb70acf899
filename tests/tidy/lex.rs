//! Tokens of a Rust source: without comments and the contents of literals, and marked where only tests are compiled.

use std::collections::BTreeSet;

#[derive(Clone, Debug)]
pub(crate) struct Token<'a> {
    /// An identifier or number, `::`, one character of other punctuation, or `"` for any literal in quotes.
    pub(crate) text: &'a str,
    /// Counted from 1.
    pub(crate) line: usize,
    /// Differs from `line` for literals that span lines.
    pub(crate) last_line: usize,
    /// Whether it belongs to an item under `#[cfg(test)]` or `#[cfg(all(test, …))]`.
    pub(crate) in_test: bool,
}

pub(crate) fn tokens(text: &str) -> Vec<Token<'_>> {
    let mut lexer = Lexer { rest: text, line: 1, found: Vec::new() };
    while !lexer.rest.is_empty() {
        lexer.step();
    }
    mark_tests(&mut lexer.found);
    lexer.found
}

/// How many lines hold code that is not compiled for tests only.
pub(crate) fn code_line_count(tokens: &[Token<'_>]) -> usize {
    let code = tokens.iter().filter(|token| !token.in_test);
    code.flat_map(|token| token.line..=token.last_line).collect::<BTreeSet<_>>().len()
}

/// The texts of the tokens from `at` on equal `expected`.
pub(crate) fn starts_with(tokens: &[Token<'_>], at: usize, expected: &[&str]) -> bool {
    tokens.len() >= at + expected.len() && tokens[at..].iter().zip(expected).all(|(token, text)| token.text == *text)
}

/// The index of the bracket that closes the one at `open`, or of the last token.
pub(crate) fn closing(tokens: &[Token<'_>], open: usize) -> usize {
    let mut depth = 0usize;
    for (index, token) in tokens.iter().enumerate().skip(open) {
        match token.text {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth == 0 {
            return index;
        }
    }
    tokens.len().saturating_sub(1)
}

struct Lexer<'a> {
    rest: &'a str,
    line: usize,
    found: Vec<Token<'a>>,
}

impl<'a> Lexer<'a> {
    fn step(&mut self) {
        let rest = self.rest;
        let first = rest.chars().next().unwrap_or(' ');
        let word_len = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
        if rest.starts_with("//") {
            self.skip(rest.find('\n').unwrap_or(rest.len()));
        } else if rest.starts_with("/*") {
            self.skip(block_comment_len(rest));
        } else if let Some(len) = raw_string_len(rest) {
            self.literal(len);
        } else if first == '"' {
            self.literal(quoted_len(rest, '"'));
        } else if first == '\'' {
            self.quote();
        } else if word_len > 0 {
            self.token(word_len);
        } else if rest.starts_with("::") {
            self.token(2);
        } else if first.is_whitespace() {
            self.skip(first.len_utf8());
        } else {
            self.token(first.len_utf8());
        }
    }

    /// A character literal, or a lifetime, which is dropped.
    fn quote(&mut self) {
        let mut inner = self.rest.chars().skip(1);
        let escaped = inner.next() == Some('\\');
        if escaped || inner.next() == Some('\'') {
            self.literal(quoted_len(self.rest, '\''));
        } else {
            self.skip(1);
            let len = self.rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(self.rest.len());
            self.skip(len);
        }
    }

    fn literal(&mut self, len: usize) {
        let line = self.line;
        self.skip(len);
        self.found.push(Token { text: "\"", line, last_line: self.line, in_test: false });
    }

    fn token(&mut self, len: usize) {
        self.found.push(Token { text: &self.rest[..len], line: self.line, last_line: self.line, in_test: false });
        self.skip(len);
    }

    fn skip(&mut self, len: usize) {
        let (skipped, rest) = self.rest.split_at(len);
        self.line += skipped.matches('\n').count();
        self.rest = rest;
    }
}

/// Block comments nest.
fn block_comment_len(text: &str) -> usize {
    let mut depth = 0usize;
    let mut at = 0;
    loop {
        let rest = &text[at..];
        if rest.starts_with("/*") {
            depth += 1;
            at += 2;
        } else if rest.starts_with("*/") {
            depth -= 1;
            at += 2;
        } else {
            let Some(next) = rest.chars().next() else { return at };
            at += next.len_utf8();
        }
        if depth == 0 {
            return at;
        }
    }
}

/// The length of a string or character with escapes, quotes included.
fn quoted_len(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        if !escaped && c == quote {
            return at + 1;
        }
        escaped = !escaped && c == '\\';
    }
    text.len()
}

/// The length of `r"…"`, `r#"…"#`, `br"…"` or `cr"…"`, if the text begins with one.
fn raw_string_len(text: &str) -> Option<usize> {
    let prefix_len = ["r", "br", "cr"]
        .into_iter()
        .find(|prefix| text.strip_prefix(prefix).is_some_and(|rest| rest.trim_start_matches('#').starts_with('"')))?;
    let after_prefix = &text[prefix_len.len()..];
    let hashes = &after_prefix[..after_prefix.find('"')?];
    let body_at = prefix_len.len() + hashes.len() + 1;
    let end = format!("\"{hashes}");
    Some(text[body_at..].find(&end).map_or(text.len(), |at| body_at + at + end.len()))
}

fn mark_tests(tokens: &mut [Token<'_>]) {
    let mut at = 0;
    while at < tokens.len() {
        if !starts_with(tokens, at, &["#", "[", "cfg", "("]) {
            at += 1;
            continue;
        }
        let predicate = at + 4;
        let after = closing(tokens, at + 1) + 1;
        if is_test_predicate(tokens, predicate) {
            let end = item_end(tokens, after);
            tokens[at..end].iter_mut().for_each(|token| token.in_test = true);
            at = end;
        } else {
            at = after;
        }
    }
}

/// `test`, or `all(…)` with `test` among its arguments. `any(test, fuzzing)` is code like any other.
fn is_test_predicate(tokens: &[Token<'_>], at: usize) -> bool {
    if !starts_with(tokens, at, &["all", "("]) {
        return starts_with(tokens, at, &["test", ")"]);
    }
    let close = closing(tokens, at + 1);
    let mut argument = at + 2;
    while argument < close {
        match tokens[argument].text {
            "test" => return true,
            "(" => argument = closing(tokens, argument) + 1,
            _ => argument += 1,
        }
    }
    false
}

/// The index after the item, statement, field or arm that begins at `at`.
fn item_end(tokens: &[Token<'_>], mut at: usize) -> usize {
    while starts_with(tokens, at, &["#", "["]) {
        at = closing(tokens, at + 1) + 1;
    }
    if starts_with(tokens, at, &["pub", "("]) {
        at = closing(tokens, at + 1);
    }
    while at < tokens.len() && ["pub", ")"].contains(&tokens[at].text) {
        at += 1;
    }
    let first = tokens.get(at).map_or("", |token| token.text);
    let is_fn = starts_with(tokens, at + 1, &["fn"]);
    let ends_with_semicolon = ["use", "const", "static", "type", "let"].contains(&first) && !is_fn;
    let ends_with_comma = !ends_with_semicolon
        && !["fn", "impl", "struct", "enum", "mod", "trait", "unsafe", "async", "extern", "macro_rules", "const"]
            .contains(&first);
    while at < tokens.len() {
        match tokens[at].text {
            ";" => return at + 1,
            "," if ends_with_comma => return at + 1,
            ")" | "]" | "}" => return at,
            "(" | "[" => at = closing(tokens, at) + 1,
            "{" => {
                at = closing(tokens, at) + 1;
                if !ends_with_semicolon {
                    return at;
                }
            }
            _ => at += 1,
        }
    }
    at
}

#[test]
fn comments_and_literals_are_no_tokens() {
    let text = "a /* b /* c */ d */ \"crate::x\\\"\" 'q' '\\'' r#\"e\"f\"# &'life g // h\n::i";
    let found: Vec<&str> = tokens(text).iter().map(|token| token.text).collect();
    assert_eq!(found, ["a", "\"", "\"", "\"", "\"", "&", "g", "::", "i"]);
    assert_eq!(tokens(text).last().map(|token| token.line), Some(2));
}

#[test]
fn only_the_item_under_the_attribute_is_a_test() {
    let text = "#[cfg(test)] use a::{b}; c!(); #[cfg(all(test, unix))] #[d] pub(crate) fn e() { f } g
        #[cfg(any(test, fuzzing))] mod h; struct S { #[cfg(test)] i: u8, j: u8 } #[cfg(test)] mod k { l } m";
    let found = tokens(text);
    let code = found.iter().filter(|token| !token.in_test && token.text.len() == 1 && token.text > "`");
    let names: Vec<&str> = code.map(|token| token.text).filter(|text| *text < "{").collect();
    assert_eq!(names, ["c", "g", "h", "j", "m"]);
}
