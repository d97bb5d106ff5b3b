//! What a client joins with, as its `User-Agent` says.

use std::sync::LazyLock;

use woothee::parser::Parser;

use crate::meetings::Device;

/// The browser with its major version, and the operating system; only what is known.
pub fn device(user_agent: &str) -> Device {
    let end = user_agent.floor_char_boundary(LONGEST);
    let Some(read) = PARSER.parse(&user_agent[..end]) else {
        return Device::default();
    };
    let known = |text: &str| text != UNKNOWN && read.category != MACHINE;
    let major = read.version.split('.').next().filter(|major| known(major));
    let browser = known(read.name).then(|| match major {
        Some(major) => format!("{} {major}", read.name),
        None => read.name.to_owned(),
    });
    let os = known(read.os).then(|| match read.os {
        "Mac OSX" => "macOS".to_owned(),
        // Where they say which version, it is that of the day on which browsers froze it.
        os if os.starts_with("Windows ") => "Windows".to_owned(),
        "iPhone" | "iPad" | "iPod" => "iOS".to_owned(),
        os => os.to_owned(),
    });
    Device { browser, os }
}

static PARSER: LazyLock<Parser> = LazyLock::new(Parser::new);
/// What the parser says of what it does not know.
const UNKNOWN: &str = "UNKNOWN";
/// Its category of HTTP libraries.
const MACHINE: &str = "misc";
/// Bytes of a `User-Agent` that are looked at.
const LONGEST: usize = 512;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn browsers_and_systems_are_told_by_name() {
        let webkit = "AppleWebKit/537.36 (KHTML, like Gecko)";
        let ios = "Mozilla/5.0 (iPhone; CPU iPhone OS 18_6 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko)";
        for (given, browser, os) in [
            (
                format!("Mozilla/5.0 (Windows NT 10.0; Win64; x64) {webkit} Chrome/143.0.0.0 Safari/537.36"),
                "Chrome 143",
                "Windows",
            ),
            (
                format!("Mozilla/5.0 (Windows NT 10.0; Win64; x64) {webkit} Chrome/143.0.0.0 Safari/537.36 Edg/143.0.0.0"),
                "Edge 143",
                "Windows",
            ),
            (
                "Mozilla/5.0 (X11; Linux x86_64; rv:145.0) Gecko/20100101 Firefox/145.0".to_owned(),
                "Firefox 145",
                "Linux",
            ),
            (
                "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/26.1 \
                 Safari/605.1.15"
                    .to_owned(),
                "Safari 26",
                "macOS",
            ),
            (
                format!("{ios} Version/26.0 Mobile/15E148 Safari/604.1"),
                "Safari 26",
                "iOS",
            ),
            (
                format!("{ios} CriOS/142.0.7444.77 Mobile/15E148 Safari/604.1"),
                "Chrome 142",
                "iOS",
            ),
            (
                format!("Mozilla/5.0 (Linux; Android 10; K) {webkit} Chrome/142.0.0.0 Mobile Safari/537.36"),
                "Chrome 142",
                "Android",
            ),
            (
                format!("Mozilla/5.0 (X11; CrOS x86_64 14541.0.0) {webkit} Chrome/142.0.0.0 Safari/537.36"),
                "Chrome 142",
                "ChromeOS",
            ),
        ] {
            let read = device(&given);
            assert_eq!(
                (read.browser.as_deref(), read.os.as_deref()),
                (Some(browser), Some(os)),
                "{given}"
            );
        }
    }

    #[test]
    fn what_is_no_browser_is_not_known() {
        for given in ["", "node", "curl/8.5.0", &"ä".repeat(1000)] {
            assert_eq!(device(given), Device::default(), "{given}");
        }
    }
}
