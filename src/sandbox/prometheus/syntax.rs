//! The subset of PromQL that flipback sends, as a tree, and its parser.
//!
//! Hand-written because the subset is small and a full parser (promql-parser) brings a parser generator and the
//! unmaintained bincode into the product's binary. What is not in the subset is refused, as Prometheus refuses nonsense.

use std::fmt;

use regex::Regex;

use super::token::{Token, tokens};

/// Nesting allowed: flipback's deepest query has five levels; recursion needs some bound.
const DEPTH_MAX: u32 = 64;

/// An expression.
#[derive(Clone, Debug)]
pub(super) enum Expr {
    Number(f64),
    Select(Selector),
    /// `sum by (a, b) (x)`.
    Aggregate {
        op: Aggregate,
        by: Vec<String>,
        of: Box<Self>,
    },
    /// `label_replace(x, "dst", "replacement", "src", "regex")`.
    LabelReplace {
        of: Box<Self>,
        to: String,
        replacement: String,
        from: String,
        pattern: Regex,
    },
    Timestamp(Box<Self>),
    /// `rate(x[1m])` and `increase(x[1m])`.
    Extrapolated {
        per_second: Rate,
        of: Selector,
    },
    Binary {
        op: Op,
        left: Box<Self>,
        right: Box<Self>,
        matching: Matching,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rate {
    PerSecond,
    InAll,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Aggregate {
    Sum,
    Min,
    Max,
    Count,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Op {
    Or,
    And,
    Unless,
    Add,
    Sub,
    Mul,
    Div,
}

/// Which labels make two samples a pair.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Matching {
    #[default]
    All,
    On(Vec<String>),
    Ignoring(Vec<String>),
}

/// `name{label="x"}[1m]`.
#[derive(Clone, Debug)]
pub(super) struct Selector {
    pub matchers: Vec<Matcher>,
    /// Milliseconds of a range selector.
    pub range: Option<i64>,
}

#[derive(Clone, Debug)]
pub(super) enum Matcher {
    Equal(String, String),
    NotEqual(String, String),
    Matches(String, Regex),
    MatchesNot(String, Regex),
}

/// Why a query was not understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SyntaxError(pub(super) String);

impl fmt::Display for SyntaxError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "invalid parameter \"query\": parse error: {}", self.0)
    }
}

pub(super) type Parsed<T> = Result<T, SyntaxError>;

pub(super) fn wrong<T>(what: impl Into<String>) -> Parsed<T> {
    Err(SyntaxError(what.into()))
}

/// Reads a query.
pub(super) fn parse(query: &str) -> Parsed<Expr> {
    let mut parser = Parser {
        tokens: tokens(query)?,
        next: 0,
        depth: 0,
    };
    let expr = parser.expression(0)?;
    match parser.peek() {
        None => Ok(expr),
        Some(token) => wrong(format!("unexpected {token:?}")),
    }
}

/// A pattern as Prometheus reads it: anchored at both ends.
pub(super) fn anchored(pattern: &str) -> Parsed<Regex> {
    Regex::new(&format!("^(?s:{pattern})$")).map_err(|_| SyntaxError(format!("error parsing regexp: {pattern:?}")))
}

struct Parser {
    tokens: Vec<Token>,
    next: usize,
    depth: u32,
}

impl Parser {
    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.next)
    }

    fn take(&mut self) -> Option<Token> {
        let token = self.tokens.get(self.next).cloned();
        self.next += 1;
        token
    }

    fn sees(&self, sign: &str) -> bool {
        matches!(self.peek(), Some(Token::Sign(found)) if *found == sign)
    }

    fn accept(&mut self, sign: &str) -> bool {
        let seen = self.sees(sign);
        self.next += usize::from(seen);
        seen
    }

    fn expect(&mut self, sign: &str) -> Parsed<()> {
        if self.accept(sign) {
            Ok(())
        } else {
            wrong(format!("unexpected {:?}, expected {sign:?}", self.peek()))
        }
    }

    fn text(&mut self) -> Parsed<String> {
        match self.take() {
            Some(Token::Text(text)) => Ok(text),
            other => wrong(format!("unexpected {other:?}, expected a string")),
        }
    }

    /// Binary operators, by precedence: `or` 1, `and` `unless` 2, `+` `-` 3, `*` `/` 4.
    fn expression(&mut self, above: u8) -> Parsed<Expr> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return wrong("the sandbox reads no deeper nesting");
        }
        let mut left = self.primary()?;
        while let Some((op, level)) = self.operator().filter(|(_, level)| *level > above) {
            self.next += 1;
            let matching = self.matching()?;
            let right = self.expression(level)?;
            left = Expr::Binary {
                op,
                left: Box::new(left),
                right: Box::new(right),
                matching,
            };
        }
        self.depth -= 1;
        Ok(left)
    }

    fn operator(&self) -> Option<(Op, u8)> {
        Some(match self.peek()? {
            Token::Word(word) if word == "or" => (Op::Or, 1),
            Token::Word(word) if word == "and" => (Op::And, 2),
            Token::Word(word) if word == "unless" => (Op::Unless, 2),
            Token::Sign("+") => (Op::Add, 3),
            Token::Sign("-") => (Op::Sub, 3),
            Token::Sign("*") => (Op::Mul, 4),
            Token::Sign("/") => (Op::Div, 4),
            _ => return None,
        })
    }

    fn matching(&mut self) -> Parsed<Matching> {
        let kind = match self.peek() {
            Some(Token::Word(word)) if word == "on" => Matching::On,
            Some(Token::Word(word)) if word == "ignoring" => Matching::Ignoring,
            _ => return Ok(Matching::All),
        };
        self.next += 1;
        self.labels().map(kind)
    }

    fn labels(&mut self) -> Parsed<Vec<String>> {
        self.expect("(")?;
        let mut found = Vec::new();
        while !self.accept(")") {
            match self.take() {
                Some(Token::Word(word)) => found.push(word),
                other => return wrong(format!("unexpected {other:?} in grouping, expected label")),
            }
            if !self.sees(")") {
                self.expect(",")?;
            }
        }
        Ok(found)
    }

    fn primary(&mut self) -> Parsed<Expr> {
        match self.take() {
            Some(Token::Number(value)) => Ok(Expr::Number(value)),
            Some(Token::Sign("(")) => {
                let inner = self.expression(0)?;
                self.expect(")")?;
                Ok(inner)
            }
            Some(Token::Sign("{")) => {
                self.next -= 1;
                self.selector(None).map(Expr::Select)
            }
            Some(Token::Word(word)) => self.named(&word),
            other => wrong(format!("unexpected {other:?}")),
        }
    }

    fn named(&mut self, word: &str) -> Parsed<Expr> {
        let aggregate = match word {
            "sum" => Some(Aggregate::Sum),
            "min" => Some(Aggregate::Min),
            "max" => Some(Aggregate::Max),
            "count" => Some(Aggregate::Count),
            _ => None,
        };
        let by_follows = matches!(self.peek(), Some(Token::Word(next)) if next == "by");
        match aggregate {
            Some(op) if by_follows || self.sees("(") => self.aggregate(op),
            _ if self.sees("(") => self.call(word),
            _ => self.selector(Some(word)).map(Expr::Select),
        }
    }

    fn by(&mut self) -> Parsed<Option<Vec<String>>> {
        if matches!(self.peek(), Some(Token::Word(next)) if next == "by") {
            self.next += 1;
            return self.labels().map(Some);
        }
        Ok(None)
    }

    fn aggregate(&mut self, op: Aggregate) -> Parsed<Expr> {
        let before = self.by()?;
        self.expect("(")?;
        let of = Box::new(self.expression(0)?);
        self.expect(")")?;
        let by = match before {
            Some(by) => by,
            None => self.by()?.unwrap_or_default(),
        };
        Ok(Expr::Aggregate { op, by, of })
    }

    fn call(&mut self, word: &str) -> Parsed<Expr> {
        self.expect("(")?;
        let of = self.expression(0)?;
        let made = match (word, of) {
            ("timestamp", of) => Expr::Timestamp(Box::new(of)),
            ("rate", Expr::Select(of)) if of.range.is_some() => Expr::Extrapolated {
                per_second: Rate::PerSecond,
                of,
            },
            ("increase", Expr::Select(of)) if of.range.is_some() => Expr::Extrapolated {
                per_second: Rate::InAll,
                of,
            },
            ("label_replace", of) => {
                let mut texts = Vec::new();
                for _ in 0..4 {
                    self.expect(",")?;
                    texts.push(self.text()?);
                }
                let Ok([to, replacement, from, pattern]) = <[String; 4]>::try_from(texts) else {
                    return wrong("label_replace takes four strings");
                };
                Expr::LabelReplace {
                    of: Box::new(of),
                    to,
                    replacement,
                    from,
                    pattern: anchored(&pattern)?,
                }
            }
            (other, _) => return wrong(format!("unknown function with name {other:?}")),
        };
        self.expect(")")?;
        Ok(made)
    }

    fn selector(&mut self, name: Option<&str>) -> Parsed<Selector> {
        let mut matchers: Vec<Matcher> = name
            .map(|name| Matcher::Equal("__name__".to_owned(), name.to_owned()))
            .into_iter()
            .collect();
        if self.accept("{") {
            while !self.accept("}") {
                matchers.push(self.matcher()?);
                if !self.sees("}") {
                    self.expect(",")?;
                }
            }
        }
        if matchers.is_empty() {
            return wrong("vector selector must contain at least one non-empty matcher");
        }
        let mut range = None;
        if self.accept("[") {
            match self.take() {
                Some(Token::Duration(millis)) => range = Some(millis),
                other => return wrong(format!("unexpected {other:?}, expected duration")),
            }
            self.expect("]")?;
        }
        Ok(Selector { matchers, range })
    }

    fn matcher(&mut self) -> Parsed<Matcher> {
        let Some(Token::Word(label)) = self.take() else {
            return wrong("expected label name in label matching");
        };
        let sign = self.take();
        let value = self.text()?;
        Ok(match sign {
            Some(Token::Sign("=")) => Matcher::Equal(label, value),
            Some(Token::Sign("!=")) => Matcher::NotEqual(label, value),
            Some(Token::Sign("=~")) => Matcher::Matches(label, anchored(&value)?),
            Some(Token::Sign("!~")) => Matcher::MatchesNot(label, anchored(&value)?),
            other => return wrong(format!("unexpected {other:?} in label matching")),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_flipback_sends_is_read() {
        for query in [
            r#"label_replace(sum by (job, instance, pod) (http_requests_total{namespace="shop",pod=~"web-blue-.+"}), "flipback", "k1", "", "")"#,
            r#"label_replace(sum by (pod) (a), "k", "1", "", "") or label_replace(timestamp(sum(b)), "k", "2", "", "")"#,
            r#"process_start_time_seconds and on (job, instance) (a{status=~"5.."} or b)"#,
            "sum by (pod) (rate(http_requests_total{status!~\"5..\"}[1m30s])) / 2 + 1",
            r#"{__name__="up"}"#,
            "sum(a) by (b)",
        ] {
            assert!(parse(query).is_ok(), "{query}: {:?}", parse(query).err());
        }
    }

    #[test]
    fn what_is_not_in_the_subset_is_refused() {
        for query in [
            "",
            "sum(",
            "a b",
            "{}",
            "a{b=1}",
            "histogram(a)",
            "a[1x]",
            "a{b=~\"(\"}",
            "a or",
            "\"text",
            &"(".repeat(1000),
        ] {
            assert!(parse(query).is_err(), "{query}");
        }
    }

    #[test]
    fn and_binds_closer_than_or() {
        let Ok(Expr::Binary { op: Op::Or, right, .. }) = parse("a or b and c") else {
            panic!("or is on top");
        };
        assert!(matches!(*right, Expr::Binary { op: Op::And, .. }));
    }
}
