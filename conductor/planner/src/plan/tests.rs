//! Plans as text: `testdata/*.txt` are read top to bottom like a lab notebook.
//!
//! A block is a command and its input, `----`, and what came of it. Run with
//! `REWRITE=1` to write what came of it into the files, and read the difference.

#![expect(clippy::unwrap_used, reason = "a broken test file should end the test")]
#![expect(clippy::disallowed_types, reason = "the notebooks are files")]

mod world;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use world::World;

fn notebook(name: &str) {
    let path: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("src/plan/testdata")
        .join(format!("{name}.txt"));
    let text = std::fs::File::open(&path)
        .and_then(std::io::read_to_string)
        .unwrap();
    let mut world = World::default();
    let mut actual = String::new();
    for block in text.trim_end().split("\n\n") {
        let (input, _) = block.split_once("----").unwrap_or((block, ""));
        let mut output = String::new();
        for line in input.trim_end().lines() {
            let _ = writeln!(actual, "{line}");
            if !line.starts_with('#') && !line.trim().is_empty() {
                world.command(line, &mut output);
            }
        }
        if block.contains("----") || !output.is_empty() {
            let _ = writeln!(actual, "----\n{}", output.trim_end());
        }
        actual.push('\n');
    }
    let actual = format!("{}\n", actual.trim_end());
    let asked: Option<&str> = option_env!("REWRITE");
    if asked.is_some() {
        use std::io::Write as _;
        std::fs::File::create(&path)
            .and_then(|mut file| file.write_all(actual.as_bytes()))
            .unwrap();
    }
    assert!(
        actual == text,
        "{name}.txt differs; it would be:\n{actual}\n(touch the crate and run with REWRITE=1 to accept)"
    );
}

#[test]
fn a_first_deploy_spreads_and_gets_ready() {
    notebook("deploy");
}

#[test]
fn what_runs_before_a_version_runs_once_and_nothing_is_touched_before() {
    notebook("before");
}

#[test]
fn what_runs_before_a_version_is_not_started_twice_by_whoever_is_lost() {
    notebook("before-lost");
}

#[test]
fn scaling_restarts_nothing() {
    notebook("scale");
}

#[test]
fn a_restart_needs_one_new_instance_also_when_the_clock_was_set_back() {
    notebook("restart-clock");
}

#[test]
fn what_leaves_does_not_wait_for_what_cannot_be_made() {
    notebook("leave-troubled");
}

#[test]
fn an_update_goes_one_slot_at_a_time() {
    notebook("update");
}

#[test]
fn what_leaves_is_stopped_when_its_connections_are_gone() {
    notebook("connections");
}

#[test]
fn what_affects_no_container_is_as_the_manifest_says_it() {
    notebook("stop-timeout");
}

#[test]
fn a_host_that_is_back_gets_its_share() {
    notebook("rebalance");
}

#[test]
fn each_host_has_one_of_a_global_container() {
    notebook("global");
    notebook("global-changes");
    notebook("global-volumes");
}

#[test]
fn an_update_that_fails_halts() {
    notebook("halt");
}

#[test]
fn an_update_that_fails_is_taken_back() {
    notebook("rollback");
}

#[test]
fn what_was_replaced_takes_its_slot_back_while_the_new_one_is_watched() {
    notebook("take-back");
}

#[test]
fn what_a_drain_moved_comes_back() {
    notebook("return");
}

#[test]
fn one_slot_is_restarted() {
    notebook("restart-slot");
}

#[test]
fn a_put_without_a_change_redeploys_what_is_always_pulled() {
    notebook("redeploy");
}

#[test]
fn a_newer_image_is_rolled_out_and_one_that_fails_is_gone_back_from() {
    notebook("newer-image");
    notebook("newer-tag");
    notebook("newer-image-again");
}

#[test]
fn a_crash_is_restarted_with_back_off() {
    notebook("crash");
}

#[test]
fn what_can_take_no_traffic_is_unready_and_without_a_network_replaced() {
    notebook("cut-off");
}

#[test]
fn a_limit_that_was_changed_by_hand_is_said() {
    notebook("limits");
}

#[test]
fn an_agent_that_restarts_adopts() {
    notebook("adopt");
}

#[test]
fn what_is_deleted_leaves_in_order() {
    notebook("delete");
}

#[test]
fn what_is_deleted_and_put_again_stays_or_ends_first() {
    notebook("put-again");
}

#[test]
fn a_manifest_that_cannot_be_read_changes_nothing() {
    notebook("garbage");
}

#[test]
fn who_may_not_be_trusted_is_not_followed() {
    notebook("trust");
}

#[test]
fn a_lost_host_s_slots_are_taken_over() {
    notebook("failover");
}

#[test]
fn a_host_that_is_missing_for_a_moment_keeps_its_slots() {
    notebook("briefly-missing");
}

#[test]
fn a_returned_host_takes_back_or_leaves() {
    notebook("returned");
}

#[test]
fn a_mass_failure_pauses_takeovers() {
    notebook("mass-failure");
}

#[test]
fn a_host_gives_away_two_slots_at_a_time() {
    notebook("drain");
    notebook("drain-volumes");
}

#[test]
fn what_somebody_does_by_hand_has_a_plan() {
    notebook("by-hand");
}

#[test]
fn a_slot_outlives_a_label() {
    notebook("label");
}

#[test]
fn what_makes_no_progress_is_given_up_and_nothing_else() {
    notebook("stalled");
}

#[test]
fn a_host_that_cannot_run_it_gives_it_up() {
    notebook("unfit");
}

#[test]
fn a_host_takes_no_two_slots_that_need_the_same_port() {
    notebook("host-port");
}

#[test]
fn a_slot_waits_for_what_becomes_of_its_volumes() {
    notebook("volumes");
}

#[test]
fn a_pin_of_a_backup_holds_back_what_does_not_run_and_nothing_else() {
    notebook("restored-pins");
}

#[test]
fn an_error_that_is_not_known_is_the_host_s_after_three_tries() {
    notebook("odd");
}

#[test]
fn an_older_version_is_placed_by_the_constraints_that_are_wanted() {
    notebook("label-older");
}

#[test]
fn an_update_that_goes_on_after_failures_gives_every_slot_its_turn() {
    notebook("continue");
}

#[test]
fn an_orphan_outlasts_the_absence_of_its_host() {
    notebook("orphan");
}

#[test]
fn an_image_that_was_found_long_ago_is_kept_while_it_is_wanted() {
    notebook("newer-image-old");
}

#[test]
fn a_drain_and_an_update_that_adds_a_volume_both_end() {
    notebook("drain-adds-volume");
}

#[test]
fn what_comes_back_to_a_host_finds_room_there() {
    notebook("returned-full");
}

#[test]
fn what_failed_and_stops_first_has_its_turn_after_the_others() {
    notebook("continue-stop-first");
}

#[test]
fn an_image_that_is_not_there_yet_is_tried_on_by_whoever_may() {
    notebook("missing-later");
}
