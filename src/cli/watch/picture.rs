//! A run as a picture of at most 80 columns: a line per row of the matrix, with a sign per stage.

use std::collections::BTreeSet;
use std::io::{Write, stdout};

use indexmap::IndexMap;
use scdd_data::place::printable;
use scdd_experiment::report::duration;
use scdd_experiment::run::watch::{StageMatrix, Standing, WatchedRow, WatchedRun, WatchedStage};

use super::{Onlooker, summary};

const WIDTH: usize = 80;
/// The width of a row's name, and of each of its three cells with the gap before it.
const NAME: usize = 41;
const CELL: usize = 13;
const LEGEND: &str = "# done   > running   . waiting   ! failed";

/// The picture on a terminal, drawn over the one before.
#[derive(Default)]
pub struct Picture {
    /// The number of lines on the screen.
    drawn: usize,
}

impl Onlooker for Picture {
    fn show(&mut self, runs: &[WatchedRun]) -> anyhow::Result<()> {
        let (width, height) = terminal_size::terminal_size()
            .map_or((WIDTH, 24), |(width, height)| (usize::from(width.0), usize::from(height.0)));
        let is_over = runs.iter().all(|run| run.processes == 0);
        // The last picture may scroll; others must not, to be drawn over.
        let height = if is_over { usize::MAX } else { height.saturating_sub(1) / runs.len() };
        let mut lines = Vec::new();
        for run in runs {
            lines.extend(picture(&run.matrix, &summary(run)?, height));
        }
        let mut out = stdout().lock();
        if self.drawn > 0 {
            // Up to the first line of the last picture, and clears from there.
            write!(out, "\x1b[{}F\x1b[J", self.drawn)?;
        }
        self.drawn = lines.len();
        for line in lines {
            writeln!(out, "{}", cut(&line, width.min(WIDTH)))?;
        }
        Ok(out.flush()?)
    }
}

/// The lines of a run, at most `height`.
fn picture(matrix: &StageMatrix, summary: &str, height: usize) -> Vec<String> {
    let head = vec![format!("{}: {summary}", matrix.name), String::new()];
    let tail =
        [others(matrix), under_way(matrix), failures(matrix), vec![LEGEND.to_owned()]].concat();
    let room = height.saturating_sub(head.len() + tail.len() + 2);
    let mut lines = [head, rows(matrix, room.max(3)), vec![String::new()], tail].concat();
    lines.truncate(height);
    lines
}

/// The rows; where there is no room for all, those that are done are left out first.
fn rows(matrix: &StageMatrix, room: usize) -> Vec<String> {
    let is_done = |row: &&WatchedRow| {
        let mut stages = row.cells.iter().flatten().map(|&place| &matrix.stages[place]);
        stages.all(|stage| stage.standing == Standing::Done)
    };
    let (done, open): (Vec<_>, Vec<_>) = matrix.rows.iter().partition(is_done);
    let shown: Vec<&WatchedRow> = match matrix.rows.len() <= room {
        true => matrix.rows.iter().collect(),
        false => open.iter().chain(&done).copied().take(room.saturating_sub(1)).collect(),
    };
    let title = ["images", "labels", "students"].map(|name| format!(" {name:<0$}", CELL - 1));
    let mut lines = vec![format!("{:NAME$}{}", "", title.concat()).trim_end().to_owned()];
    lines.extend(shown.iter().map(|row| row_line(matrix, row)));
    let hidden: Vec<_> = matrix
        .rows
        .iter()
        .filter(|row| !shown.iter().any(|one| std::ptr::eq(*one, *row)))
        .collect();
    if !hidden.is_empty() {
        let done = hidden.iter().filter(|row| is_done(row)).count();
        lines.push(format!("… and {} rows more, {done} of them done", hidden.len()));
    }
    lines
}

fn row_line(matrix: &StageMatrix, row: &WatchedRow) -> String {
    let cell = |places: &Vec<usize>| {
        let stages = places.iter().map(|&place| &matrix.stages[place]);
        format!(" {:<1$}", signs(stages, CELL - 1), CELL - 1)
    };
    let cells: String = row.cells.iter().map(cell).collect();
    format!("{:<NAME$}{cells}", cut(&row.name, NAME - 1)).trim_end().to_owned()
}

/// A sign per stage, or the numbers of each where signs need more than `room`.
fn signs<'a>(stages: impl Iterator<Item = &'a WatchedStage>, room: usize) -> String {
    let sign = |stage: &WatchedStage| match stage.standing {
        Standing::Done => '#',
        Standing::Running => '>',
        Standing::Waiting => '.',
        Standing::Failed => '!',
    };
    let signs: String = stages.map(sign).collect();
    if signs.len() <= room {
        return signs;
    }
    let counts = ['#', '>', '.', '!'].map(|sign| (signs.matches(sign).count(), sign));
    let counts = counts.iter().filter(|(count, _)| *count > 0);
    counts.map(|(count, sign)| format!("{count}{sign}")).collect::<Vec<_>>().join(" ")
}

/// The stages that belong to no row, by kind.
fn others(matrix: &StageMatrix) -> Vec<String> {
    let in_rows: BTreeSet<usize> =
        matrix.rows.iter().flat_map(|row| row.cells.iter().flatten().copied()).collect();
    let mut kinds: IndexMap<&str, Vec<&WatchedStage>> = IndexMap::new();
    for (_, stage) in matrix.stages.iter().enumerate().filter(|(place, _)| !in_rows.contains(place))
    {
        kinds.entry(stage.stage.kind()).or_default().push(stage);
    }
    let line = |(kind, stages): (&str, Vec<&WatchedStage>)| {
        format!("{kind:<9} {}", signs(stages.into_iter(), WIDTH - 10))
    };
    kinds.into_iter().map(line).collect()
}

fn under_way(matrix: &StageMatrix) -> Vec<String> {
    let line = |stage: &WatchedStage| {
        let progress = stage.progress.as_ref();
        let share = progress.map_or(String::new(), |p| format!("{:.0} %", 100.0 * p.fraction()));
        let left = progress.and_then(|progress| progress.seconds_left());
        let left = left.map_or(String::new(), |seconds| format!(", {} left", duration(seconds)));
        format!("> {share:>5}{left}: {}", stage.title)
    };
    let running = matrix.stages.iter().filter(|stage| stage.standing == Standing::Running);
    running.map(line).collect()
}

fn failures(matrix: &StageMatrix) -> Vec<String> {
    let reasons = matrix.stages.iter().filter_map(|stage| stage.failure.as_deref());
    reasons.map(|reason| printable(&format!("! {reason}").replace('\n', " "))).collect()
}

/// The text in at most `width` columns, without its middle if it is longer: names often differ in
/// their ends.
fn cut(text: &str, width: usize) -> String {
    let letters: Vec<char> = text.chars().collect();
    if letters.len() <= width {
        return text.to_owned();
    }
    let end = width / 3;
    let start = width.saturating_sub(end + 1);
    letters[..start].iter().chain(&['…']).chain(&letters[letters.len() - end..]).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use scdd_artifacts::stage::{Stage, StageProgress};

    use super::*;

    /// Two checks, and `count` sets of images of which the first ones are done, each with labels
    /// and a student.
    fn matrix(count: usize, done: usize) -> StageMatrix {
        let stage = |kind: &str, standing| WatchedStage {
            stage: Stage::new(kind, 1, "x", &(), BTreeMap::new(), 0).unwrap(),
            directory: kind.into(),
            title: format!("{kind} images of method `a` from teacher `b`, ipc 10, seed 0"),
            needs: Vec::new(),
            standing,
            progress: None,
            failure: None,
        };
        let mut stages = vec![stage("verify", Standing::Done), stage("verify", Standing::Failed)];
        stages[1].failure = Some("verify `b`: hashes\ndiffer".into());
        let mut rows = Vec::new();
        for number in 0..count {
            let place = stages.len();
            let standing = if number < done { Standing::Done } else { Standing::Waiting };
            stages.extend(["recover", "relabel", "validate"].map(|kind| stage(kind, standing)));
            let name = format!("ipc {number}: a rather long method from a rather long-teacher");
            rows.push(WatchedRow { name, cells: [vec![place], vec![place + 1], vec![place + 2]] });
        }
        if let Some(next) = stages.iter_mut().find(|stage| stage.standing == Standing::Waiting) {
            next.standing = Standing::Running;
            let unit = "it".into();
            let of = |done| StageProgress { done, total: 100, unit, first: 0, seconds: 6.0 };
            next.progress = Some(of(30));
        }
        StageMatrix { name: "x".into(), stages, rows }
    }

    #[test]
    fn a_picture_shows_every_stage_in_80_columns() {
        let lines = picture(&matrix(2, 1), "1 of 2", 100);
        let expected = [
            "x: 1 of 2",
            "",
            "                                          images       labels       students",
            "ipc 0: a rather long metho… long-teacher  #            #            #",
            "ipc 1: a rather long metho… long-teacher  >            .            .",
            "",
            "verify    #!",
            ">  30 %, 14 s left: recover images of method `a` from teacher `b`, ipc 10, seed 0",
            "! verify `b`: hashes differ",
            LEGEND,
        ];
        assert_eq!(lines, expected);
        assert!(lines.iter().all(|line| cut(line, WIDTH).chars().count() <= 80));
    }

    #[test]
    fn where_there_is_no_room_the_open_rows_are_shown() {
        let lines = picture(&matrix(30, 20), "", 20);
        assert!(lines.len() <= 20, "{lines:?}");
        let shown = |sign: &str| lines.iter().filter(|line| line.ends_with(sign)).count();
        assert!(
            shown(" .            .            .") >= 6
                && shown(" >            .            .") == 1
        );
        assert!(
            lines.iter().any(|line| line.contains("19 rows more, 19 of them done")),
            "{lines:?}"
        );
    }

    #[test]
    fn many_stages_of_a_cell_are_counted() {
        let stages = matrix(30, 20).stages;
        assert_eq!(signs(stages[..5].iter(), 12), "#!###");
        assert_eq!(signs(stages.iter(), 12), "61# 1> 29. 1!");
    }
}
