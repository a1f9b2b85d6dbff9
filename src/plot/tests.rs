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
    assert_eq!(drawn.matches(r#"class="line a""#).count(), 2, "{drawn}");
    assert_eq!(drawn.matches('M').count(), 3, "two runs and the limit: {drawn}");
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
    assert!(!drawn.contains("<script") && !drawn.contains("<b&"), "{drawn}");
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

/// A release that went bad, as a report shows it.
fn incident() -> Plot {
    let blue = |n: i64| 0.004 + 0.003 * ((n * 7) % 5) as f64 / 5.0;
    let green = |n: i64| match n {
        ..60 => 0.003,
        60..100 => 0.002 * (n - 60) as f64 + 0.004 * (n % 3) as f64,
        _ => 0.085 - 0.004 * (n % 4) as f64,
    };
    let line = |name: &str, class: &str, value: &dyn Fn(i64) -> f64, upto: i64| Line {
        name: name.into(),
        class: class.into(),
        columns: reduce((0..upto).map(|n| (at(n * 15), value(n))), at(0), at(2400), 40),
    };
    let mark = |seconds, kind, text: &str| Mark {
        at: at(seconds),
        kind,
        text: text.into(),
    };
    let mut marks: Vec<Mark> = (95..112).map(|n| mark(n * 15, MarkKind::Breach, "")).collect();
    marks.extend([
        mark(900, MarkKind::Switch, "switched to green (release 1.8.2)"),
        mark(1290, MarkKind::Near, "nearly: one breach was missing"),
        mark(1560, MarkKind::Held, "held back: standby not ready"),
        mark(1680, MarkKind::Decision, "rolled back: 8.1 % of 1204 requests failed, 5 % allowed"),
    ]);
    Plot {
        title: "error-rate of shop/web".into(),
        from: at(0),
        to: at(2400),
        size: Size::Fluid { height: 168 },
        unit: Unit::Share,
        lines: vec![line("green", "b", &green, 160), line("blue", "a", &blue, 140)],
        limit: Some(0.05),
        marks,
        spans: vec![
            Span {
                from: at(900),
                to: at(1800),
                class: "watch".into(),
                text: "watched".into(),
            },
            Span {
                from: at(300),
                to: at(420),
                class: "blind".into(),
                text: "blind: Prometheus did not answer".into(),
            },
        ],
    }
}

/// Width and height that a PNG says it has.
fn dots(png: &[u8]) -> (u32, u32) {
    assert_eq!(png.get(..8), Some(b"\x89PNG\r\n\x1a\n".as_slice()), "a PNG");
    let number = |from: usize| u32::from_be_bytes(png[from..from + 4].try_into().expect("four bytes"));
    (number(16), number(20))
}

#[test]
fn an_incident_as_wide_as_its_page_is_what_people_see() {
    insta::assert_snapshot!(svg(&incident()).replace("><", ">\n<"));
}

#[test]
fn an_incident_of_its_own_size_is_in_pixels_and_carries_its_style() {
    let plot = Plot {
        size: Size::Fixed { width: 640, height: 200 },
        ..incident()
    };
    let drawn = svg(&plot);
    assert!(drawn.contains("xmlns=") && drawn.contains("<style>"));
    let body = drawn.split("</style>").nth(1).expect("a drawing");
    assert!(!body.contains(r#"%""#), "places are pixels: {body}");
    insta::assert_snapshot!(body.replace("><", ">\n<"));
}

#[test]
fn a_picture_carries_title_legend_and_its_own_typeface() {
    let drawn = draw::picture(&incident(), 800, 334);
    for word in [
        "error-rate of shop/web",
        ">green<",
        ">blue<",
        ">allowed<",
        ">decision<",
        ">held back<",
        ">watch<",
        ">blind<",
    ] {
        assert!(drawn.contains(word), "{word} in {drawn}");
    }
    let light = png(&incident(), Theme::Light).expect("a picture");
    assert_eq!(dots(&light), (2400, 1002));
    assert!(light.len() < 200_000, "{} bytes", light.len());
    let dark = png(&incident(), Theme::Dark).expect("a picture");
    assert_ne!(light, dark);
}

/// The typeface is in the binary: a picture with words differs from one whose words no typeface has.
#[test]
fn words_of_a_picture_are_drawn() {
    let with = png(&incident(), Theme::Light).expect("a picture");
    let mute = Plot {
        title: "\u{10ffff}".into(),
        ..incident()
    };
    assert_ne!(with, png(&mute, Theme::Light).expect("a picture"));
}

#[test]
fn a_picture_of_anything_is_a_picture() {
    let hostile = "\"><script>\u{0}\u{1b}\u{fffe}]]>&amp;".repeat(40);
    let none = reduce([], at(0), at(10), 0);
    let mut plot = incident();
    plot.title.clone_from(&hostile);
    plot.lines[0].name.clone_from(&hostile);
    plot.lines[0].class.clone_from(&hostile);
    plot.lines[1].columns = none;
    plot.spans[0].class.clone_from(&hostile);
    plot.marks[20].text.clone_from(&hostile);
    plot.limit = Some(f64::INFINITY);
    png(&plot, Theme::Light).expect("a picture");
    for (from, to) in [(at(5), at(5)), (at(9), at(1))] {
        let plot = Plot { from, to, ..plot.clone() };
        png(&plot, Theme::Dark).expect("a picture");
    }
    for (width, height) in [(0, 0), (1, u32::MAX), (u32::MAX, 1)] {
        let size = Size::Fixed { width, height };
        let plot = Plot { size, ..incident() };
        let (wide, high) = dots(&png(&plot, Theme::Light).expect("a picture"));
        assert!(wide <= 12_000 && high <= 12_000, "{wide} x {high}");
    }
}

/// Words of the time axis of a chart that lasts so long.
fn times(seconds: i64) -> Vec<String> {
    let plot = Plot {
        from: at(7),
        to: at(7 + seconds),
        ..plot(Vec::new())
    };
    let drawn = svg(&plot);
    let words = drawn.split(r#"<text class="time"#).skip(1);
    let word = |rest: &str| {
        rest.split_once('>')
            .and_then(|(_, rest)| rest.split_once('<'))
            .map(|(word, _)| word.to_owned())
    };
    words.filter_map(word).collect()
}

#[test]
fn a_short_chart_has_its_seconds_and_never_more_words_than_fit() {
    assert_eq!(times(3), ["14:13:27", "14:13:28", "14:13:29", "14:13:30"]);
    assert_eq!(times(40), ["14:13:30", "14:13:40", "14:13:50", "14:14:00"]);
    assert_eq!(times(100), ["14:13:30", "14:14:00", "14:14:30", "14:15:00"]);
    assert_eq!(times(200), ["14:14", "14:15", "14:16"]);
    for seconds in (1..4000).step_by(7) {
        let words = times(seconds);
        let long = words.first().is_some_and(|word| word.len() > 5);
        assert!(
            !words.is_empty() && words.len() <= if long { 5 } else { 7 },
            "{seconds} s: {words:?}"
        );
    }
}

#[test]
fn a_picture_says_what_its_band_and_its_heights_are() {
    let thick = Plot {
        lines: vec![Line {
            name: "green".into(),
            class: "b".into(),
            columns: reduce((0..600).map(|n| (at(n * 4), 0.9 * ((n * 7) % 5) as f64 / 5.0)), at(0), at(2400), 40),
        }],
        ..incident()
    };
    assert!(thick.has_band() && thick.is_root());
    let drawn = draw::picture(&thick, 800, 334);
    assert!(drawn.contains(BAND) && drawn.contains(ROOT), "{drawn}");
    assert_eq!(
        drawn.matches(r#"class="band b""#).count(),
        2,
        "its sign and the band itself: {drawn}"
    );
    let plain = Plot {
        lines: vec![Line {
            name: "green".into(),
            class: "b".into(),
            columns: reduce((0..40).map(|n| (at(n * 60), 0.03)), at(0), at(2400), 40),
        }],
        ..incident()
    };
    assert!(!plain.has_band() && !plain.is_root());
    let drawn = draw::picture(&plain, 800, 334);
    assert!(!drawn.contains(BAND) && !drawn.contains(ROOT), "{drawn}");
}
