//! Lines on their way to a person's terminal, or to a program as JSON.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
};

use anstyle::{AnsiColor, Style};
use serde_json::json;

use super::{
    Output,
    script::{Ending, Scenario},
    story::{Line, Voice},
    summary::Summary,
};
use crate::cli::evidence::quoted;

/// Text is broken at this width, which most terminals have.
const WIDTH: usize = 118;
/// Where the text of a line begins: after time and voice.
const INDENT: usize = 20;

/// Where the story goes. Styles are always written: the stream drops them where they are not wanted.
pub(super) struct Printer<W> {
    out: W,
    output: Output,
}

/// What the audience may do once the demo is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Farewell {
    /// The page.
    pub report: PathBuf,
    /// The command that opens it.
    pub open: String,
    /// The command that tells it in the terminal.
    pub show: String,
}

impl Farewell {
    /// Of an incident's folder below a data folder, for who called the program so; `None`: there is no report.
    pub(super) fn of(folder: &Path, data_dir: &Path, program: &Path) -> Option<Self> {
        let report = folder.join("report.html");
        let id = folder.file_name()?.to_string_lossy().into_owned();
        let command = |what: &str| format!("{} evidence {what} {id} --data-dir {}", quoted(program), quoted(data_dir));
        report.is_file().then(|| Self {
            open: command("open"),
            show: command("show"),
            report,
        })
    }
}

impl<W: Write> Printer<W> {
    pub(super) fn new(out: W, output: Output) -> Self {
        Self { out, output }
    }

    /// What the audience must know first.
    pub(super) fn opening(&mut self, title: &str, paragraphs: &[String]) -> io::Result<()> {
        if self.output == Output::Json {
            return self.json(&json!({ "kind": "opening", "title": title, "text": paragraphs }));
        }
        let bold = Style::new().bold();
        writeln!(self.out, "{bold}{title}{bold:#}\n")?;
        for paragraph in paragraphs {
            for line in wrapped(paragraph, WIDTH - 2) {
                writeln!(self.out, "  {line}")?;
            }
            writeln!(self.out)?;
        }
        self.out.flush()
    }

    /// One line of the story.
    pub(super) fn line(&mut self, line: &Line) -> io::Result<()> {
        let seconds = line.after.as_secs_f64();
        if self.output == Output::Json {
            let kind = match line.voice {
                Voice::Scene => "scene",
                other => other.word(),
            };
            let value = json!({ "kind": kind, "after_seconds": (seconds * 1000.0).round() / 1000.0, "text": line.text });
            return self.json(&value);
        }
        let (style, dim) = (style(line.voice), Style::new().dimmed());
        let mut time = format!("{seconds:6.1} s");
        let mut voice = line.voice.word();
        let text = if line.voice == Voice::Scene {
            writeln!(self.out)?;
            format!("── {}", line.text)
        } else {
            line.text.clone()
        };
        let indent = if line.voice == Voice::Scene { INDENT - 9 } else { INDENT };
        for part in wrapped(&text, WIDTH - indent) {
            if line.voice == Voice::Scene {
                writeln!(self.out, "{dim}{time:8}{dim:#}   {style}{part}{style:#}")?;
            } else {
                writeln!(self.out, "{dim}{time:8}{dim:#}   {voice:<9}{style}{part}{style:#}")?;
            }
            (time, voice) = (String::new(), "");
        }
        self.out.flush()
    }

    /// How it ended.
    pub(super) fn summary(&mut self, scenario: Scenario, ending: &Ending, summary: &Summary) -> io::Result<()> {
        if self.output == Output::Json {
            return self.json(&json!({ "kind": "summary", "scenario": scenario.name(), "summary": summary }));
        }
        let bold = Style::new().bold();
        writeln!(self.out, "\n{bold}What it came to{bold:#}\n")?;
        for (name, value) in summary.facts() {
            writeln!(self.out, "  {name:<34}{value}")?;
        }
        writeln!(self.out)?;
        if summary.passed {
            let good = Style::new().fg_color(Some(AnsiColor::Green.into())).bold();
            for line in wrapped(&format!("As it must be: {}", ending.moral), WIDTH - 2) {
                writeln!(self.out, "  {good}{line}{good:#}")?;
            }
        } else {
            let bad = Style::new().fg_color(Some(AnsiColor::Red.into())).bold();
            writeln!(self.out, "  {bad}This did not end as it must:{bad:#}")?;
            for failure in &summary.failures {
                writeln!(self.out, "  - {failure}")?;
            }
        }
        self.out.flush()
    }

    /// Where the report lies, and how to look at it later.
    pub(super) fn farewell(&mut self, farewell: &Farewell) -> io::Result<()> {
        if self.output == Output::Json {
            return self.json(&json!({ "kind": "report", "path": farewell.report, "open": farewell.open, "show": farewell.show }));
        }
        writeln!(
            self.out,
            "\n  The report, one file for any browser:\n    {}",
            farewell.report.display()
        )?;
        writeln!(self.out, "  Opened, or told here:\n    {}\n    {}", farewell.open, farewell.show)?;
        self.out.flush()
    }

    /// A last word, such as where the page is.
    pub(super) fn note(&mut self, text: &str) -> io::Result<()> {
        if self.output == Output::Json {
            return self.json(&json!({ "kind": "note", "text": text }));
        }
        writeln!(self.out, "\n  {text}")?;
        self.out.flush()
    }

    fn json(&mut self, value: &serde_json::Value) -> io::Result<()> {
        writeln!(self.out, "{value}")?;
        self.out.flush()
    }
}

fn style(voice: Voice) -> Style {
    let color = |color: AnsiColor| Style::new().fg_color(Some(color.into()));
    match voice {
        Voice::Scene => Style::new().bold(),
        Voice::Users | Voice::Evidence => Style::new(),
        Voice::Good => color(AnsiColor::Green),
        Voice::Bad | Voice::Trouble => color(AnsiColor::Red),
        Voice::Unknown => color(AnsiColor::Yellow),
        Voice::Flipback => color(AnsiColor::Cyan).bold(),
        Voice::Chat => color(AnsiColor::Magenta),
    }
}

/// Breaks a text between words; a longer word stays whole.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    let mut used = 0;
    for word in text.split(' ') {
        let length = word.chars().count();
        match lines.last_mut() {
            Some(line) if used + 1 + length <= width => {
                line.push(' ');
                line.push_str(word);
                used += 1 + length;
            }
            _ => {
                lines.push(word.to_owned());
                used = length;
            }
        }
    }
    lines
}
