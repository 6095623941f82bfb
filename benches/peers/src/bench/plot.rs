//! The plot: a bar for each subject and load, with its spread.

use std::fmt::Write as _;

/// One subject: minimum, median and maximum at 64 and at 256 connections.
pub struct Bar {
    pub title: String,
    pub is_ours: bool,
    pub few: (f64, f64, f64),
    pub many: (f64, f64, f64),
}

const WIDTH: f64 = 760.0;
const LEFT: f64 = 240.0;
const RIGHT: f64 = 60.0;
const TOP: f64 = 64.0;
const ROW: f64 = 44.0;
const BAR: f64 = 15.0;

/// Legible on white and on black: the colours follow the reader's scheme.
const STYLE: &str = "
text{font:13px system-ui,sans-serif;fill:#1f2328}.title{font-size:15px;font-weight:600}.small{font-size:11px;fill:#59636e}
.few{fill:#9db8d9}.many{fill:#4f7cb3}.ours .few{fill:#8fd0a6}.ours .many{fill:#1a7f4b}.ours text{font-weight:600}
line{stroke:#59636e}.grid{stroke:#d1d9e0}
@media (prefers-color-scheme:dark){text{fill:#f0f6fc}.small{fill:#9198a1}.few{fill:#3d5f8a}.many{fill:#7ba6dc}
.ours .few{fill:#2b6b45}.ours .many{fill:#4ac77f}line{stroke:#9198a1}.grid{stroke:#3d444d}}";

pub fn svg(bars: &[Bar]) -> String {
    let most = bars.iter().map(|bar| bar.few.2.max(bar.many.2)).fold(1.0, f64::max);
    let step = [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0]
        .into_iter()
        .find(|step| most / step <= 8.0)
        .unwrap_or(1000.0);
    let end = (most / step).ceil() * step;
    let x = |value: f64| LEFT + value / end * (WIDTH - LEFT - RIGHT);
    let bottom = TOP + ROW * bars.len() as f64;
    let mut body = String::new();
    let mut value = 0.0;
    while value <= end {
        put(
            &mut body,
            format_args!(
                r#"<line class="grid" x1="{0:.1}" x2="{0:.1}" y1="{TOP}" y2="{bottom:.1}"/>"#,
                x(value)
            ),
        );
        put(
            &mut body,
            format_args!(
                r#"<text class="small" x="{:.1}" y="{:.1}" text-anchor="middle">{value}</text>"#,
                x(value),
                bottom + 16.0
            ),
        );
        value += step;
    }
    for (at, bar) in bars.iter().enumerate() {
        let top = TOP + ROW * at as f64 + 6.0;
        put(&mut body, format_args!(r#"<g class="{}">"#, if bar.is_ours { "ours" } else { "theirs" }));
        put(
            &mut body,
            format_args!(
                r#"<text x="{:.1}" y="{:.1}" text-anchor="end">{}</text>"#,
                LEFT - 10.0,
                top + BAR + 4.0,
                escaped(&bar.title)
            ),
        );
        for (class, (min, median, max), y) in [("few", bar.few, top), ("many", bar.many, top + BAR + 1.0)] {
            put(
                &mut body,
                format_args!(
                    r#"<rect class="{class}" x="{LEFT}" y="{y:.1}" width="{:.1}" height="{BAR}"/>"#,
                    x(median) - LEFT
                ),
            );
            let middle = y + BAR / 2.0;
            put(
                &mut body,
                format_args!(
                    r#"<line x1="{:.1}" x2="{:.1}" y1="{middle:.1}" y2="{middle:.1}"/>"#,
                    x(min),
                    x(max)
                ),
            );
            put(
                &mut body,
                format_args!(
                    r#"<text class="small" x="{:.1}" y="{:.1}">{median:.1}</text>"#,
                    x(max) + 5.0,
                    middle + 4.0
                ),
            );
        }
        body.push_str("</g>\n");
    }
    let height = bottom + 44.0;
    format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0}" role="img" aria-label="CPU per request of each proxy">
<style>{STYLE}</style>
<text class="title" x="12" y="24">CPU per request in µs, one worker, TLS to the origin: less is better</text>
<rect class="few" x="12" y="36" width="12" height="12"/><text class="small" x="30" y="46">64 connections</text>
<rect class="many" x="130" y="36" width="12" height="12"/><text class="small" x="148" y="46">256 connections; the line is minimum to maximum over the rounds</text>
{body}<text class="small" x="{LEFT}" y="{:.0}">weigate and nginx + Lua also check every reply and retry; the others append a fixed token</text>
</svg>
"#,
        bottom + 34.0
    )
}

fn put(body: &mut String, line: std::fmt::Arguments<'_>) {
    // Writing to a string cannot go wrong.
    let _written = writeln!(body, "{line}");
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
