//! Pods that were taken out of every Service's and their ReplicaSet's reach, and run on for somebody to look at.

/// Label of a pod that was isolated; its value is the incident.
pub const ISOLATED_LABEL: &str = "flipback.dev/isolated";
/// A label's value may be so long.
const LABEL_MAX: usize = 63;

/// An incident's name as the value of [`ISOLATED_LABEL`]: its end, which has the time, where it is too long.
#[must_use]
pub fn isolated_label(incident: &str) -> String {
    let kept: Vec<char> = incident
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-') {
                c
            } else {
                '-'
            }
        })
        .collect();
    let from = kept.len().saturating_sub(LABEL_MAX);
    let text: String = kept.into_iter().skip(from).collect();
    text.trim_matches(|c: char| !c.is_ascii_alphanumeric()).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_incident_becomes_a_label_however_long_it_is() {
        assert_eq!(isolated_label("shop.web_20260102T000000.123Z"), "shop.web_20260102T000000.123Z");
        let long = isolated_label(&format!("{}/ü_20260102T000000Z", "x".repeat(80)));
        assert!(long.len() <= LABEL_MAX && long.ends_with("_20260102T000000Z"), "{long}");
        assert!(long.starts_with(|c: char| c.is_ascii_alphanumeric()));
    }
}
