//! The picture of a sample: what a chat would show of an incident, so that its right to take files is tried too.

use std::io::Write as _;

use resvg::{tiny_skia, usvg};

/// A share of errors that rises over a threshold and falls after a flip; without words, so that no font is needed.
const DRAWING: &str = r##"<svg xmlns="http://www.w3.org/2000/svg" width="640" height="240" viewBox="0 0 640 240">
<rect width="640" height="240" fill="#ffffff"/>
<path d="M40 20V200H620" fill="none" stroke="#8c959f" stroke-width="1"/>
<path d="M40 140H620" stroke="#d1242f" stroke-width="1.5" stroke-dasharray="6 4"/>
<path d="M420 20V200" stroke="#0969da" stroke-width="1.5" stroke-dasharray="2 3"/>
<path d="M40 186L120 188L200 184L280 187L310 150L340 96L370 52L400 44L420 46" fill="none" stroke="#1a7f37" stroke-width="2.5"/>
<path d="M420 184L480 188L540 185L620 187" fill="none" stroke="#0969da" stroke-width="2.5"/>
<g fill="#d1242f"><circle cx="340" cy="96" r="5"/><circle cx="370" cy="52" r="5"/><circle cx="400" cy="44" r="5"/></g>
</svg>"##;

/// The picture as a file that is gone when it is dropped; `None` where no file can be written.
pub(super) fn picture() -> Option<tempfile::NamedTempFile> {
    let mut file = tempfile::Builder::new().prefix("flipback-sample-").suffix(".png").tempfile().ok()?;
    file.write_all(&png()?).ok()?;
    Some(file)
}

fn png() -> Option<Vec<u8>> {
    let tree = usvg::Tree::from_str(DRAWING, &usvg::Options::default()).ok()?;
    let size = tree.size().to_int_size();
    let mut pixels = tiny_skia::Pixmap::new(size.width(), size.height())?;
    resvg::render(&tree, tiny_skia::Transform::default(), &mut pixels.as_mut());
    pixels.encode_png().ok()
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_sample_is_a_picture() {
        let file = super::picture().expect("a file");
        let bytes = std::fs::read(file.path()).expect("readable");
        assert!(bytes.starts_with(b"\x89PNG\r\n") && bytes.len() > 1000);
    }
}
