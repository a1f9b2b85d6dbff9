//! Metric ranges as files: one pair per rule and color, JSON for programs (a list of [`Series`]) and CSV for spreadsheets.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use crate::model::{Color, RuleName, Series, file_segment};

use super::scrub::Scrub;

/// The files of some series: name and content.
pub(super) fn files(mut series: Vec<Series>, scrub: &Scrub) -> Vec<(String, Vec<u8>)> {
    for one in &mut series {
        one.query = scrub.text(&one.query).into_owned();
        one.name = scrub.text(&one.name).into_owned();
    }
    let about: BTreeSet<(RuleName, Color)> = series.iter().map(|one| (one.rule.clone(), one.color.clone())).collect();
    let mut files = Vec::new();
    for (rule, color) in about {
        let name = format!("metrics/{}.{}", file_segment(rule.as_str()), file_segment(color.as_str()));
        let these: Vec<&Series> = series.iter().filter(|one| one.rule == rule && one.color == color).collect();
        let mut json = serde_json::to_vec_pretty(&these).unwrap_or_default();
        json.push(b'\n');
        files.push((format!("{name}.json"), json));
        files.push((format!("{name}.csv"), csv(&these).into_bytes()));
    }
    files
}

/// What a series counts in, as its column says it; empty for a number of the guard's own.
fn unit(name: &str) -> &'static str {
    let is_quantile = || name.strip_prefix('p').is_some_and(|number| number.parse::<f64>().is_ok());
    match name {
        "total" | "bad" | "requests" => "_per_second",
        "share" => "_ratio",
        _ if is_quantile() => "_seconds",
        _ => "",
    }
}

/// One row per time, one column per series.
fn csv(series: &[&Series]) -> String {
    let quoted = |text: &str| format!("\"{}\"", text.replace('"', "\"\""));
    let mut rows = "time".to_owned();
    for one in series {
        let _ = write!(rows, ",{}", quoted(&format!("{}{}", one.name, unit(&one.name))));
    }
    rows.push('\n');
    let times: BTreeSet<_> = series.iter().flat_map(|one| one.points.iter().map(|(at, _)| *at)).collect();
    let columns: Vec<BTreeMap<_, _>> = series.iter().map(|one| one.points.iter().copied().collect()).collect();
    for at in times {
        let _ = write!(rows, "{at}");
        for column in &columns {
            rows.push(',');
            if let Some(value) = column.get(&at) {
                let _ = write!(rows, "{value}");
            }
        }
        rows.push('\n');
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_column_says_what_it_counts_in() {
        let names = ["total", "bad", "requests", "share", "p99", "p99.9", "value", "long", "pods"];
        assert_eq!(
            names.map(unit),
            [
                "_per_second",
                "_per_second",
                "_per_second",
                "_ratio",
                "_seconds",
                "_seconds",
                "",
                "",
                ""
            ]
        );
    }
}
