//! A timeline as a picture: plain SVG, one file, without a script.
//!
//! From the top: title and legend, the calls, a row for each lane, the axis of time, the depth of the queue, and the
//! slowest items. The size is bounded, whatever was recorded: see [`lanes`].

mod calls;
mod lanes;
mod parts;
mod scale;

use std::fmt::Write;

use self::parts::escaped;
use self::parts::put;
use self::scale::LEFT;
use self::scale::Scale;
use self::scale::WIDTH;
use crate::observe::record::Records;
use crate::observe::report::call_name;
use crate::observe::report::time_text;
use crate::observe::trace::outcome_name;

const DEPTH_HEIGHT: f64 = 64.0;
const SLOWEST: usize = 5;

/// Plain rules, and the same for a dark page: not all programs that show pictures know variables.
const STYLE: &str = "\
svg{font:12px system-ui,sans-serif}text{fill:#1f2933}.dim{fill:#7b8794}.bg{fill:#fff}.row{fill:#f1f4f8}\
.grid{stroke:#d5dbe2;stroke-width:1}.life{fill:#c9d2dc}.m{stroke:#1f2933;stroke-width:1.6;fill:none}\
@media(prefers-color-scheme:dark){text{fill:#e4e7eb}.dim{fill:#8d99a6}.bg{fill:#15191e}.row{fill:#1d232a}\
.grid{stroke:#39424d}.life{fill:#3d4854}.m{stroke:#e4e7eb}}\
.title{font-size:15px;font-weight:600}.end{text-anchor:end}.mid{text-anchor:middle}.start{fill:#d9a400}\
.c0{fill:#4c78a8}.c1{fill:#3ba39c}.c2{fill:#7a9b3d}.c3{fill:#9c6fb6}.c4{fill:#a87f5d}.c5{fill:#5f7f95}\
.failed{fill:#e45756}.lost{fill:#b3122b}.late{fill:#f58518}.cut{fill:#a8a29e}.runs{fill-opacity:.45}\
.q{fill:#4c78a8;fill-opacity:.35}.h{fill:#3ba39c;fill-opacity:.55}\
.died{stroke:#b3122b;stroke-width:2.2;fill:none}rect:hover{stroke:#7b8794}";

/// Shapes for what happens to workers, around the origin.
const SHAPES: &str = "\
<defs><path id=\"died\" class=\"died\" d=\"M-5-5L5 5M-5 5L5-5\"/>\
<path id=\"timed-out\" class=\"m\" d=\"M0-5.5A5.5 5.5 0 1 1-.01-5.5M0-3V0L3 1.5\"/>\
<path id=\"recycled\" class=\"m\" d=\"M4.5-2A5 5 0 1 0 4.8 1.5M5-5V-1.5H1.5\"/>\
<path id=\"cancelled\" class=\"m\" d=\"M-4.5-4.5H4.5V4.5H-4.5ZM-4.5 4.5L4.5-4.5\"/>\
<path id=\"spoilt\" class=\"died\" d=\"M0-5L5 4H-5Z\"/></defs>";

/// Draws the picture.
pub(crate) fn draw(records: &Records) -> String {
    let scale = Scale::new(records);
    let mut body = String::new();
    header(&mut body, records);
    let mut y = 72.0;
    y = calls::draw(&mut body, records, &scale, y) + 10.0;
    let top = y;
    y = lanes::draw(&mut body, records, &scale, y);
    axis(&mut body, &scale, top, y);
    y = depth(&mut body, records, &scale, y + 34.0);
    y = slowest(&mut body, records, y + 26.0);
    let height = y + 16.0;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height:.0}\" width=\"{WIDTH}\" \
         height=\"{height:.0}\" role=\"img\"><title>{}</title><style>{STYLE}</style>{SHAPES}\
         <rect class=\"bg\" width=\"100%\" height=\"100%\"/>\n{body}</svg>\n",
        escaped(&headline(records)),
    )
}

fn headline(records: &Records) -> String {
    let items: u64 = records.runs.iter().map(|run| u64::from(run.items)).sum();
    let time = time_text(records.to.saturating_sub(records.from));
    let dropped = match records.runs_dropped {
        0 => String::new(),
        dropped => format!(" ({dropped} older runs were dropped)"),
    };
    format!("{items} items on {} lanes in {time}{dropped}", records.lanes())
}

fn header(svg: &mut String, records: &Records) {
    put!(svg, "<text class=\"title\" x=\"16\" y=\"26\">{}</text>", escaped(&headline(records)));
    put!(svg, "<text class=\"dim\" x=\"16\" y=\"44\">{}</text>\n", escaped(&records.title));
    let mut x = 16.0;
    let swatches = [
        ("c0", "value (a colour for each call)"),
        ("failed", "failed"),
        ("lost", "lost with its worker"),
        ("late", "time limit"),
        ("cut", "cancelled"),
        ("c0 runs", "still running"),
        ("start", "worker starts"),
    ];
    for (class, text) in swatches {
        put!(svg, "<rect class=\"{class}\" x=\"{x:.0}\" y=\"54\" width=\"11\" height=\"11\"/>");
        put!(svg, "<text class=\"dim\" x=\"{:.0}\" y=\"64\">{text}</text>", x + 15.0);
        x += 34.0 + 6.3 * text.len() as f64;
    }
    for (shape, text) in
        [("died", "died"), ("recycled", "recycled"), ("timed-out", "killed"), ("cancelled", "cancelled")]
    {
        put!(svg, "<use href=\"#{shape}\" x=\"{:.0}\" y=\"60\"/>", x + 5.0);
        put!(svg, "<text class=\"dim\" x=\"{:.0}\" y=\"64\">{text}</text>", x + 15.0);
        x += 34.0 + 6.3 * text.len() as f64;
    }
    svg.push('\n');
}

fn axis(svg: &mut String, scale: &Scale, top: f64, bottom: f64) {
    for (x, text) in scale.ticks() {
        put!(svg, "<path class=\"grid\" d=\"M{x:.1} {top:.0}V{:.0}\" opacity=\".6\"/>", bottom + 4.0);
        put!(svg, "<text class=\"dim mid\" x=\"{x:.1}\" y=\"{:.0}\">{text}</text>\n", bottom + 18.0);
    }
}

/// The depth of the queue as an area, with what workers held below what was queued.
fn depth(svg: &mut String, records: &Records, scale: &Scale, top: f64) -> f64 {
    let bottom = top + DEPTH_HEIGHT;
    let most = records.depths.iter().map(|depth| depth.queued + depth.held).max().unwrap_or(0);
    put!(
        svg,
        "<rect class=\"row\" x=\"{LEFT}\" y=\"{top:.0}\" width=\"{:.0}\" height=\"{DEPTH_HEIGHT}\"/>",
        scale.plot()
    );
    put!(svg, "<text class=\"end\" x=\"{:.0}\" y=\"{:.0}\">queue</text>", LEFT - 8.0, top + 14.0);
    put!(svg, "<text class=\"dim end\" x=\"{:.0}\" y=\"{:.0}\">{most}</text>\n", LEFT - 8.0, top + 30.0);
    // The largest of each pixel.
    let mut columns: Vec<(f64, u64, u64)> = Vec::new();
    for depth in &records.depths {
        let x = scale.x(depth.at).floor();
        match columns.last_mut() {
            Some(last) if last.0 >= x => (last.1, last.2) = (last.1.max(depth.queued), last.2.max(depth.held)),
            _ => columns.push((x, depth.queued, depth.held)),
        }
    }
    let mut area = |class: &str, name: &str, height: &dyn Fn(&(f64, u64, u64)) -> u64| {
        let Some(first) = columns.first() else { return };
        put!(svg, "<path class=\"{class}\" d=\"M{:.0} {bottom:.0}", first.0);
        for column in &columns {
            let y = bottom - DEPTH_HEIGHT * height(column) as f64 / most.max(1) as f64;
            put!(svg, "H{:.0}V{y:.1}", column.0);
        }
        put!(svg, "H{:.0}V{bottom:.0}Z\"><title>{name}</title></path>\n", scale.x(records.to));
    };
    area("q", "items that waited for a worker, above those that workers held", &|column| column.1 + column.2);
    area("h", "items that workers held", &|column| column.2);
    bottom
}

fn slowest(svg: &mut String, records: &Records, top: f64) -> f64 {
    let slowest = records.slowest(SLOWEST);
    if slowest.is_empty() {
        return top - 26.0;
    }
    put!(svg, "<text x=\"16\" y=\"{top:.0}\">Slowest items</text>");
    let mut y = top;
    for run in slowest {
        y += 17.0;
        let name = call_name(run.call, records.label(run.call));
        let (took, at) = (time_text(run.to - run.from), records.seconds(run.from));
        put!(svg, "<text class=\"end\" x=\"90\" y=\"{y:.0}\">{took}</text>");
        let what = format!(
            "item {} of {name}: {}, lane {}, process {}, at {at:.3} s",
            run.first,
            outcome_name(run.outcome),
            run.lane,
            run.pid,
        );
        put!(svg, "<text class=\"dim\" x=\"104\" y=\"{y:.0}\">{}</text>\n", escaped(&what));
    }
    y
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::record::Run;
    use crate::observe::sample;

    /// Whether every element that is opened is closed, in order, and no stray `<` or `&` is left.
    fn check_xml(svg: &str) {
        let mut open = Vec::new();
        for part in svg.split('<').skip(1) {
            let (tag, text) = part.split_once('>').expect("a tag ends");
            assert!(!text.contains('>'), "{part}");
            let entities = text.split('&').skip(1).chain(tag.split('&').skip(1));
            assert!(
                entities.into_iter().all(|rest| ["amp;", "lt;", "gt;", "quot;"].iter().any(|e| rest.starts_with(e)))
            );
            let name = tag.trim_start_matches('/').split([' ', '/']).next().unwrap();
            match (tag.starts_with('/'), tag.ends_with('/')) {
                (true, _) => assert_eq!(open.pop(), Some(name.to_owned())),
                (false, true) => {}
                (false, false) => open.push(name.to_owned()),
            }
        }
        assert!(open.is_empty(), "{open:?}");
    }

    #[test]
    fn a_picture_is_xml_and_shows_everything() {
        let svg = draw(&sample::records());
        check_xml(&svg);
        for class in ["\"c0\"", "\"failed\"", "\"lost\"", "\"c1 runs\"", "\"start\"", "#died", "\"q\"", "\"h\""] {
            assert!(svg.contains(class), "{class}");
        }
        assert!(svg.contains("resize &quot;a&quot; &amp; &lt;b&gt; "), "labels are escaped");
        assert!(!svg.contains("<script") && !svg.contains("http://www.w3.org/1999"));
    }

    #[test]
    fn a_picture_is_small_whatever_was_recorded() {
        let mut records = sample::records();
        let template = records.runs[0];
        records.runs = (0..200_000u64)
            .map(|place| {
                let from = records.from + place * 500;
                let lane = u32::try_from(place % 64).unwrap();
                let (items, is_exact) = (1 + lane % 2, lane % 2 == 0);
                Run { lane, first: place, items, is_exact, from, to: from + 400 + (place % 977) * 300, ..template }
            })
            .collect();
        let mark = records.marks[4];
        records.marks =
            (0..50_000).map(|at| crate::observe::record::Mark { at: records.from + at * 2000, ..mark }).collect();
        let call = records.calls[0].clone();
        records.calls = (0..5000)
            .map(|number| crate::observe::record::CallSpan {
                call: number,
                from: records.from + number * 20_000,
                ..call.clone()
            })
            .collect();
        let svg = draw(&records);
        check_xml(&svg);
        assert!(svg.len() < 400_000, "{} bytes", svg.len());
    }

    #[test]
    fn an_empty_timeline_has_a_picture() {
        check_xml(&draw(&Records::default()));
    }
}
