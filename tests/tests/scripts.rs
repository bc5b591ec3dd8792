//! What the scripts of `make up` and `make down` decide, without a machine to try it on.

use std::process::Command;

#[test]
fn the_unit_of_a_host_s_agent_is_foreign_to_make_up() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("dokkaa.service");
    let is_foreign = || {
        let decided = Command::new("bash")
            .args([
                "-c",
                r#". ../scripts/cluster.sh; is_foreign_unit "$1""#,
                "bash",
            ])
            .arg(&file)
            .output()
            .expect("bash");
        let said = String::from_utf8_lossy(&decided.stderr).into_owned();
        assert_eq!(said, "");
        decided.status.success()
    };
    assert!(!is_foreign(), "there is none");
    for (command, foreign) in [
        ("/usr/local/bin/dokkaa up", false),
        (
            "/usr/local/bin/dokkaa up --keys-listen=127.0.0.1:5001",
            false,
        ),
        ("/usr/local/bin/dokkaa agent --name up up", true),
        ("/usr/local/bin/dokkaa upgrade", true),
    ] {
        let unit = format!("[Unit]\nDescription=x up\n\n[Service]\nExecStart={command}\n");
        std::fs::write(&file, unit).expect("written");
        assert_eq!(is_foreign(), foreign, "{command}");
    }
}
