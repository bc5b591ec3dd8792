//! `dokkaa etcd-env`: environment of etcdctl for the embedded etcd, for
//! `eval "$(dokkaa etcd-env)"`.

use std::path::Path;

use crate::embedded_etcd::Files;

/// `export` lines for a shell; none where this state directory has no embedded etcd.
pub(crate) fn lines(state_dir: &Path) -> Option<String> {
    let files = Files::of(state_dir);
    files.exist().then(|| {
        format!(
            "export ETCDCTL_API=3\nexport ETCDCTL_ENDPOINTS={}\n",
            quoted(&files.endpoint())
        )
    })
}

/// Quotes for a shell where needed.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/:._-".contains(c);
    if text.chars().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_without_an_etcd_of_its_own() {
        let dir = tempfile::tempdir().expect("directory");
        assert_eq!(lines(dir.path()), None);
    }

    #[test]
    fn a_shell_reads_back_what_was_meant() {
        let dir = tempfile::tempdir().expect("directory");
        let state_dir = dir.path().join("it's here");
        std::fs::create_dir_all(state_dir.join("etcd/data")).expect("made");
        let script = lines(&state_dir).expect("lines") + "printf %s \"$ETCDCTL_ENDPOINTS\"";
        let answer = std::process::Command::new("sh")
            .args(["-c", &script])
            .output()
            .expect("sh runs");
        assert_eq!(
            String::from_utf8_lossy(&answer.stdout),
            Files::of(&state_dir).endpoint()
        );
    }

    #[test]
    fn plain_paths_stay_plain() {
        assert_eq!(
            quoted("unix:///var/lib/dokkaa/etcd/c:1"),
            "unix:///var/lib/dokkaa/etcd/c:1"
        );
    }
}
