use super::*;

use executor::Redactions;

use crate::progress::State;

fn record(history: &History, limits: Limits) -> String {
    let (recording, logs) = Recording::begin(history.clone(), limits, Build::default()).unwrap();
    let id = history.list().unwrap()[0].0.id.clone();
    assert_eq!(history.find(None).unwrap().0.status, Status::Running);
    let hidden = Redactions::default();
    let state = State::default();
    // As if every build had printed something.
    let sizes = [(1, (1, false))].into();
    drop(logs);
    recording.finish(&state, &sizes, &hidden, Status::Completed, None).unwrap();
    id
}

#[test]
fn the_newest_builds_are_kept_and_found() {
    let place = tempfile::tempdir().unwrap();
    let history = History { dir: place.path().join("history") };
    assert!(history.find(None).is_err());
    let limits = Limits { builds: 3, bytes: 1 << 20 };
    let ids: Vec<String> = (0..5).map(|_| record(&history, limits)).collect();
    let kept: Vec<String> =
        history.list().unwrap().into_iter().map(|(build, _)| build.id).collect();
    assert_eq!(kept, [&ids[4], &ids[3], &ids[2]].map(Clone::clone));
    assert_eq!(history.find(Some("^1")).unwrap().0.id, ids[3]);
    assert_eq!(history.find(Some(&ids[2][..12])).unwrap().0.id, ids[2]);
    assert!(history.find(Some("^3")).is_err());
    assert_eq!(history.find(None).unwrap().0.status, Status::Completed);
    // A byte is too much, but the last build always stays.
    let last = record(&history, Limits { bytes: 1, ..limits });
    let kept = history.list().unwrap();
    assert_eq!((kept.len(), &kept[0].0.id), (1, &last));
}

#[test]
fn a_build_that_never_ended_was_killed() {
    let place = tempfile::tempdir().unwrap();
    let history = History { dir: place.path().join("history") };
    let begun = Recording::begin(history.clone(), Limits::DEFAULT, Build::default()).unwrap();
    drop(begun);
    assert_eq!(history.find(None).unwrap().0.status, Status::Killed);
}
