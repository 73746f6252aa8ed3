//! How cost grows, as SVG.

use std::error::Error;
use std::fs;
use std::path::Path;

use plotters::prelude::*;

use crate::lines::{Plot, Regime};
use crate::report::{Figures, Row};

const PLOTS: [(Plot, &str, &str, &str); 5] = [
    (Plot::Burst, "bursts", "Notifications of cmap in bursts", "notifications in a burst"),
    (Plot::Size, "sizes", "Messages of cpg to oneself, pipelined", "bytes of a message"),
    (
        Plot::SizeOfTwo,
        "sizes-of-two",
        "Messages of cpg to oneself, a thread sends and one takes",
        "bytes of a message",
    ),
    (Plot::Threads, "threads", "Gets of cmap by threads: ours share one client", "threads"),
    (Plot::Connections, "connections", "Gets of cmap over connections in turn", "connections"),
];

type Value = fn(&Figures) -> f64;

/// Points of a line of a chart, its name and its colour.
type Series = (Vec<(f64, f64)>, &'static str, RGBColor);

/// Writes two files for each plot that has lines: time, and CPU of this process.
pub(crate) fn write(folder: &Path, rows: &[Row]) -> Result<(), Box<dyn Error>> {
    fs::create_dir_all(folder)?;
    let values: [(&str, Value); 2] =
        [("time", |figures| figures.time), ("CPU", |figures| figures.own)];
    for (plot, file, title, across) in PLOTS {
        for (what, value) in values {
            let points = |regime: Regime, side: fn(&Row) -> &Figures| {
                let rows = rows.iter().filter(|row| row.regime == regime);
                let points = rows.filter_map(|row| Some((row.point?, value(side(row)) * 1e6)));
                points.filter(|((of, _), _)| *of == plot).map(|((_, x), y)| (x, y)).collect()
            };
            let all: [Series; 4] = [
                (points(Regime::Idle, |row| &row.ours), "corosync-ipc, idle", RGBColor(0, 70, 200)),
                (points(Regime::Idle, |row| &row.theirs), "C, idle", RGBColor(200, 30, 30)),
                (
                    points(Regime::Busy, |row| &row.ours),
                    "corosync-ipc, busy",
                    RGBColor(120, 170, 255),
                ),
                (points(Regime::Busy, |row| &row.theirs), "C, busy", RGBColor(255, 150, 130)),
            ];
            let series: Vec<Series> =
                all.into_iter().filter(|(points, ..)| points.len() > 1).collect();
            if !series.is_empty() {
                let path = folder.join(format!("{file}-{}.svg", what.to_lowercase()));
                draw(&path, &format!("{title}: {what}"), across, series)?;
            }
        }
    }
    Ok(())
}

/// Both axes are logarithmic: cost in microseconds over what it grows with.
fn draw(path: &Path, title: &str, across: &str, series: Vec<Series>) -> Result<(), Box<dyn Error>> {
    let range = |pick: fn(&(f64, f64)) -> f64| {
        let values = series.iter().flat_map(|(points, ..)| points).map(pick);
        let widen = |(least, most): (f64, f64), value: f64| (least.min(value), most.max(value));
        let (least, most) = values.fold((f64::MAX, 0.0), widen);
        (least * 0.8..most * 1.25).log_scale()
    };
    let root = SVGBackend::new(path, (720, 420)).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .caption(title, ("sans-serif", 16))
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(70)
        .build_cartesian_2d(range(|point| point.0), range(|point| point.1))?;
    chart.configure_mesh().x_desc(across).y_desc("\u{b5}s").draw()?;
    for (points, name, colour) in series {
        chart.draw_series(points.iter().map(|point| Circle::new(*point, 3, colour.filled())))?;
        chart
            .draw_series(LineSeries::new(points, colour.stroke_width(2)))?
            .label(name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], colour.stroke_width(2)));
    }
    chart.configure_series_labels().background_style(WHITE).border_style(BLACK).draw()?;
    root.present()?;
    Ok(())
}
