//! The report in a real headless Chromium, as somebody opens it from a folder: on a phone and on a desk, light and dark, on
//! paper, and with everything hostile that a bundle can hold.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use flipback::evidence::report;
use serde_json::Value;

#[path = "report/browser.rs"]
mod browser;
#[path = "report/bundle.rs"]
mod bundle;

use browser::{Browser, Glass};
use bundle::{KINDS, Kind};

const PHONE: Glass = Glass {
    width: 375,
    height: 812,
    dark: false,
};
const DESK: Glass = Glass {
    width: 1280,
    height: 900,
    dark: false,
};

/// Bundles of every kind, each with its report.
fn bundles() -> (tempfile::TempDir, Vec<(Kind, PathBuf)>) {
    let root = tempfile::tempdir().expect("a folder");
    let made = KINDS.map(|kind| {
        let folder = root.path().join(format!("{kind:?}"));
        bundle::write(&folder, kind);
        report::write(&folder).expect("a report");
        (kind, folder)
    });
    (root, made.into())
}

async fn number(browser: &Browser, expression: &str) -> f64 {
    let value = browser.value(expression).await;
    value.as_f64().unwrap_or_else(|| panic!("{expression} gave {value}"))
}

/// What must hold of a page, however it is looked at.
async fn holds(browser: &Browser, kind: Kind, glass: Glass) {
    let what = format!("{kind:?} at {} x {}", glass.width, glass.height);
    let wide = number(browser, "document.documentElement.scrollWidth").await;
    assert!(wide <= f64::from(glass.width), "{what}: {wide} pixels wide");
    let sticks_out = "[...document.querySelectorAll('body *')].filter(e => !e.closest('svg') && e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML.slice(0, 90))";
    assert_eq!(browser.value(sticks_out).await, Value::from(Vec::<Value>::new()), "{what}");
    let headline = number(browser, "document.querySelector('h1').getBoundingClientRect().bottom").await;
    assert!(headline < f64::from(glass.height), "{what}: the headline ends at {headline}");
    // Nothing was asked of anybody, nothing runs, nothing complained.
    assert_eq!(browser.value("performance.getEntriesByType('resource').length").await, 0, "{what}");
    assert_eq!(
        browser
            .value("document.querySelectorAll('script, img, link, iframe, object, form').length")
            .await,
        0,
        "{what}"
    );
    let handlers = "[...document.querySelectorAll('*')].some(e => [...e.attributes].some(a => a.name.startsWith('on')))";
    assert_eq!(browser.value(handlers).await, false, "{what}: something would run");
    assert_ne!(browser.value("document.title").await, "owned", "{what}");
    assert_eq!(browser.complaints().await, Vec::<String>::new(), "{what}");
    // Its structure is there for those who do not see it.
    assert_eq!(browser.value("document.querySelectorAll('h1').length").await, 1, "{what}");
    let headers = "[...document.querySelectorAll('table')].every(t => t.querySelectorAll('thead th[scope=col]').length > 1)";
    assert_eq!(browser.value(headers).await, true, "{what}: a table without headers");
    let named = "[...document.querySelectorAll('svg')].every(s => s.closest('[aria-hidden]') || s.closest('svg[aria-label]') || s.parentElement.closest('svg[aria-label]'))";
    assert_eq!(browser.value(named).await, true, "{what}: a drawing without words");
    let scheme = browser.value("getComputedStyle(document.body).backgroundColor").await;
    let ground = if glass.dark { "rgb(13, 17, 23)" } else { "rgb(244, 246, 248)" };
    assert_eq!(scheme, ground, "{what}");
}

#[tokio::test]
async fn every_kind_of_report_fits_a_phone_and_a_desk_in_light_and_dark() {
    if !browser::is_there("every_kind_of_report_fits_a_phone_and_a_desk_in_light_and_dark") {
        return;
    }
    let (_root, bundles) = bundles();
    for glass in [PHONE, DESK, Glass { dark: true, ..PHONE }, Glass { dark: true, ..DESK }] {
        let browser = Browser::start(glass).await;
        for (kind, folder) in &bundles {
            browser.open(&folder.join("report.html")).await;
            holds(&browser, *kind, glass).await;
        }
        browser.close().await;
    }
}

#[tokio::test]
async fn words_stand_out_from_their_ground() {
    if !browser::is_there("words_stand_out_from_their_ground") {
        return;
    }
    let (_root, bundles) = bundles();
    // Contrast of every text as WCAG has it, at least 4.5 to 1.
    let faint = r"(() => {
        const parts = c => c.match(/[\d.]+/g).map(Number);
        const light = c => { const [r, g, b] = parts(c).map(v => v / 255).map(v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4); return .2126 * r + .7152 * g + .0722 * b; };
        const ground = e => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor; if (parts(c)[3] !== 0) return c; } return 'rgb(255, 255, 255)'; };
        const texts = [...document.querySelectorAll('body *')].filter(e => !e.closest('svg') && !e.closest('.said') && [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim()));
        return texts.map(e => [light(getComputedStyle(e).color), light(ground(e)), e]).filter(([a, b]) => (Math.max(a, b) + .05) / (Math.min(a, b) + .05) < 4.5).map(([, , e]) => e.outerHTML.slice(0, 80));
    })()";
    for dark in [false, true] {
        let browser = Browser::start(Glass { dark, ..DESK }).await;
        for (kind, folder) in &bundles {
            browser.open(&folder.join("report.html")).await;
            assert_eq!(
                browser.value(faint).await,
                Value::from(Vec::<Value>::new()),
                "{kind:?}, dark: {dark}"
            );
        }
        browser.close().await;
    }
}

#[tokio::test]
async fn every_link_leads_to_a_file_of_the_bundle_and_logs_open() {
    if !browser::is_there("every_link_leads_to_a_file_of_the_bundle_and_logs_open") {
        return;
    }
    let (_root, bundles) = bundles();
    let browser = Browser::start(DESK).await;
    for (kind, folder) in &bundles {
        browser.open(&folder.join("report.html")).await;
        let links = browser.value("[...document.querySelectorAll('a[href]')].map(a => a.href)").await;
        let links: Vec<url::Url> = serde_json::from_value(links).expect("addresses");
        assert!(links.len() > 15, "{kind:?}: {links:?}");
        for link in links {
            let inside = link.to_file_path().is_ok_and(|path| path.starts_with(folder) && path.is_file());
            assert!(inside, "{kind:?}: {link} leads nowhere");
            if let Some(place) = link.fragment() {
                let found = browser.value(&format!("document.getElementById('{place}') !== null")).await;
                assert_eq!(found, true, "{kind:?}: #{place}");
            }
        }
    }
    browser.open(&bundles[0].1.join("report.html")).await;
    browser
        .value("document.querySelector('.files a[href*=\"logs/green\"]').click()")
        .await;
    let opened = browser
        .value("[location.href.endsWith('app.log'), document.body.innerText.includes('total_cents')]")
        .await;
    assert_eq!(opened, serde_json::json!([true, true]));
    browser.close().await;
}

/// Prints a page as a browser's menu does.
fn printed(page: &Path, folder: &Path) -> Vec<u8> {
    let paper = folder.join("paper.pdf");
    let status = Command::new("chromium")
        .args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--no-first-run",
            "--disable-background-networking",
        ])
        .arg(format!("--user-data-dir={}", folder.join("profile").display()))
        .arg(format!("--print-to-pdf={}", paper.display()))
        .arg(format!("file://{}", page.display()))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    assert!(status.expect("runs").success(), "chromium prints");
    fs::read(paper).expect("printed")
}

#[test]
fn a_report_prints_on_a_few_pages_of_a4() {
    if !browser::is_there("a_report_prints_on_a_few_pages_of_a4") {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    bundle::write(folder.path(), Kind::RolledBack);
    report::write(folder.path()).expect("a report");
    let paper = printed(&folder.path().join("report.html"), folder.path());
    let text = String::from_utf8_lossy(&paper);
    let pages = text.matches("/Type /Page\n").count();
    assert!((2..=9).contains(&pages), "{pages} pages");
    // Points: 210 mm are 595, 297 mm are 842.
    let boxes: Vec<&str> = text
        .split("/MediaBox [")
        .skip(1)
        .filter_map(|rest| rest.split(']').next())
        .collect();
    let is_a4 = |size: &&str| {
        let sizes: Vec<f64> = size.split_whitespace().filter_map(|number| number.parse().ok()).collect();
        matches!(sizes.as_slice(), [_, _, wide, high] if (wide - 595.0).abs() < 2.0 && (high - 842.0).abs() < 2.0)
    };
    assert!(!boxes.is_empty() && boxes.iter().all(is_a4), "{boxes:?}");
}
