//! The shapes of marks, in the drawing and in the legend: nobody has to tell two colors apart.

use super::MarkKind;

/// A mark in a drawing of this height, from its upper end.
pub(super) fn shape(kind: MarkKind, high: u32) -> String {
    match kind {
        MarkKind::Breach => format!(r#"<path class="breach" d="M0 {}v5"/>"#, high + 2),
        MarkKind::Near => format!(r#"<path class="near" d="M0 {}l4 4l-4 4l-4-4z"/>"#, high + 1),
        MarkKind::Switch => format!(r#"<path class="switch" d="M0-2V{high}"/>"#),
        MarkKind::Decision => format!(r#"<path class="decision" d="M0-14V{high}M0-14h11l-3 4.5l3 4.5H0z"/>"#),
        MarkKind::Held => format!(r#"<path class="held" d="M0-14V{high}M0-14h11l-3 4.5l3 4.5H0z"/>"#),
    }
}

/// The kinds of marks in the order of the legend, with their words.
pub(super) const LEGEND: [(MarkKind, &str); 5] = [
    (MarkKind::Switch, "traffic switched"),
    (MarkKind::Decision, "decision"),
    (MarkKind::Held, "held back"),
    (MarkKind::Near, "near miss"),
    (MarkKind::Breach, "past the limit"),
];

/// A kind of mark as a sign of 14 to 10 pixels, from its left upper corner.
pub(super) fn legend_sign(index: u16) -> &'static str {
    match LEGEND.get(usize::from(index)).map(|(kind, _)| kind) {
        Some(MarkKind::Switch) => r#"<path class="switch" d="M7 0v11"/>"#,
        Some(MarkKind::Decision) => r#"<path class="decision" d="M2 0v11M2 0h11l-3 3.5l3 3.5H2z"/>"#,
        Some(MarkKind::Held) => r#"<path class="held" d="M2 0v11M2 0h11l-3 3.5l3 3.5H2z"/>"#,
        Some(MarkKind::Near) => r#"<path class="near" d="M7 1l4 4l-4 4l-4-4z"/>"#,
        Some(MarkKind::Breach) => r#"<path class="breach" d="M2 3v6M7 3v6M12 3v6"/>"#,
        None => "",
    }
}
