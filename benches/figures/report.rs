//! What was measured, as a table for people and as JSON for programs.

use std::path::Path;

use serde_json::{Value, json};

/// The figures so far.
#[derive(Debug, Default)]
pub struct Report {
    figures: Vec<Figure>,
}

#[derive(Debug)]
struct Figure {
    name: String,
    value: f64,
    unit: String,
    /// At most so much; none where nothing was promised.
    goal: Option<f64>,
    note: String,
}

/// The spread of some values.
#[derive(Clone, Copy, Debug)]
pub struct Spread {
    /// The smallest.
    pub least: f64,
    /// Half of them are at most this.
    pub median: f64,
    /// 99 % of them are at most this.
    pub p99: f64,
    /// The largest.
    pub most: f64,
}

impl Spread {
    /// The spread of `values`, by nearest rank.
    ///
    /// # Panics
    /// When there is no value.
    pub fn of(values: &[f64]) -> Self {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        // Saturating by definition of `as`.
        let rank = |share: f64| sorted[((share * sorted.len() as f64).ceil() as usize).clamp(1, sorted.len()) - 1];
        Self {
            least: sorted[0],
            median: rank(0.5),
            p99: rank(0.99),
            most: rank(1.0),
        }
    }
}

impl Report {
    /// Adds a figure with what was promised.
    pub fn add(&mut self, name: &str, value: f64, unit: &str, goal: f64, note: &str) {
        self.put(name, value, unit, Some(goal), note);
    }

    /// Adds a figure without a promise.
    pub fn tell(&mut self, name: &str, value: f64, unit: &str, note: &str) {
        self.put(name, value, unit, None, note);
    }

    fn put(&mut self, name: &str, value: f64, unit: &str, goal: Option<f64>, note: &str) {
        self.figures.push(Figure {
            name: name.to_owned(),
            value,
            unit: unit.to_owned(),
            goal,
            note: note.to_owned(),
        });
    }

    /// Prints the table and writes the JSON file.
    ///
    /// # Panics
    /// When the file cannot be written.
    pub fn finish(&self, file: &Path) {
        let head = ["figure", "measured", "goal", "", "note"].map(str::to_owned);
        let rows: Vec<[String; 5]> = std::iter::once(head).chain(self.figures.iter().map(Figure::row)).collect();
        let widths: [usize; 5] = std::array::from_fn(|column| rows.iter().map(|row| row[column].len()).max().unwrap_or_default());
        for (n, row) in rows.iter().enumerate() {
            anstream::println!("{}", line(row, &widths, ' '));
            if n == 0 {
                let rule = widths.map(|width| "-".repeat(width));
                anstream::println!("{}", line(&rule, &widths, '-'));
            }
        }
        let figures: Vec<Value> = self.figures.iter().map(Figure::json).collect();
        let text = serde_json::to_string_pretty(&json!({"figures": figures})).expect("JSON");
        std::fs::write(file, text + "\n").expect("the target folder is writable");
    }
}

impl Figure {
    fn row(&self) -> [String; 5] {
        let goal = self
            .goal
            .map_or_else(String::new, |goal| format!("<= {} {}", round(goal), self.unit));
        [
            self.name.clone(),
            format!("{} {}", round(self.value), self.unit),
            goal,
            self.verdict().to_owned(),
            self.note.clone(),
        ]
    }

    fn verdict(&self) -> &'static str {
        match self.goal {
            None => "",
            Some(goal) if self.value <= goal => "met",
            Some(_) => "MISSED",
        }
    }

    fn json(&self) -> Value {
        json!({
            "name": self.name, "value": self.value, "unit": self.unit, "goal": self.goal,
            "met": self.goal.map(|goal| self.value <= goal), "note": self.note,
        })
    }
}

/// A line of a Markdown table.
fn line(cells: &[String; 5], widths: &[usize; 5], edge: char) -> String {
    let cells = cells.iter().zip(widths).map(|(cell, width)| format!("{edge}{cell:width$}{edge}|"));
    format!("|{}", cells.collect::<String>())
}

/// Three digits are enough for people.
fn round(value: f64) -> String {
    if value >= 100.0 {
        format!("{value:.0}")
    } else if value >= 1.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.3}")
    }
}
