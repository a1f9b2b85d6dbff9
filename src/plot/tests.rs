use super::*;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_790_000_000 + seconds).expect("in range")
}

fn plot(lines: Vec<Line>) -> Plot {
    Plot {
        title: "errors of shop/web".into(),
        from: at(0),
        to: at(7 * 86_400),
        size: Size::Fluid { height: 150 },
        unit: Unit::Share,
        lines,
        limit: Some(0.05),
        marks: Vec::new(),
        spans: Vec::new(),
    }
}

fn week(peak: f64) -> Vec<Option<Column>> {
    let noise = |n: i64| if n == 20_000 { peak } else { 0.002 + 0.001 * (n % 7) as f64 };
    reduce((0..40_320).map(|n| (at(n * 15), noise(n))), at(0), at(7 * 86_400), 360)
}

#[test]
fn a_single_peak_among_forty_thousand_values_is_kept() {
    let columns = week(0.9);
    assert_eq!(columns.len(), 360);
    let highest = columns.iter().flatten().map(|column| column.high).fold(0.0, f64::max);
    assert!((highest - 0.9).abs() < 1e-9, "{highest}");
}

#[test]
fn a_week_of_two_colors_costs_few_bytes() {
    let line = |class: &str| Line {
        name: class.into(),
        class: class.into(),
        columns: week(0.9),
    };
    let bytes = svg(&plot(vec![line("a"), line("b")])).len();
    assert!(bytes < 13_000, "{bytes}");
}

#[test]
fn a_gap_is_a_gap_and_not_a_line_across_it() {
    let points = (0..100).filter(|n| !(40..60).contains(n)).map(|n| (at(n * 6048), 0.01));
    let columns = reduce(points, at(0), at(7 * 86_400), 50);
    let line = Line {
        name: "blue".into(),
        class: "a".into(),
        columns,
    };
    let drawn = svg(&plot(vec![line]));
    let path = drawn
        .split(r#"class="line a" d=""#)
        .nth(1)
        .expect("a line")
        .split('"')
        .next()
        .expect("quoted");
    assert_eq!(path.matches('M').count(), 2, "{path}");
}

#[test]
fn what_comes_from_outside_cannot_become_markup() {
    let mut plot = plot(Vec::new());
    plot.title = r#""><script>alert(1)</script>"#.into();
    plot.marks.push(Mark {
        at: at(100),
        kind: MarkKind::Decision,
        text: "<b>".into(),
    });
    plot.spans.push(Span {
        from: at(1),
        to: at(2),
        class: "blind".into(),
        text: "</title><script>".into(),
    });
    let drawn = svg(&plot);
    assert!(!drawn.contains("<script>") && !drawn.contains("<b>"), "{drawn}");
}

#[test]
fn a_peak_far_over_the_limit_leaves_the_limit_visible() {
    let line = |peak| Line {
        name: "blue".into(),
        class: "a".into(),
        columns: week(peak),
    };
    let scale = axis::Scale::of(&plot(vec![line(1.0)]));
    assert!(scale.root && scale.height(0.05) > 0.15);
    assert!(!axis::Scale::of(&plot(vec![line(0.1)])).root);
}

#[test]
fn a_chart_is_what_people_see() {
    let mut plot = plot(vec![Line {
        name: "blue".into(),
        class: "a".into(),
        columns: reduce((0..8).map(|n| (at(n * 80_000), 0.01 * n as f64)), at(0), at(7 * 86_400), 12),
    }]);
    plot.marks = vec![
        Mark {
            at: at(200_000),
            kind: MarkKind::Switch,
            text: "to green".into(),
        },
        Mark {
            at: at(300_000),
            kind: MarkKind::Decision,
            text: "would have rolled back".into(),
        },
    ];
    insta::assert_snapshot!(svg(&plot).replace("><", ">\n<"));
}
