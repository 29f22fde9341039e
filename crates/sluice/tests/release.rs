//! The conditions of `make release`, in a repository of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn git(folder: &Path, words: &[&str]) {
    let mut command = Command::new("git");
    command.args(["-c", "user.name=test", "-c", "user.email=test@example.org"]);
    let status = command.args(words).current_dir(folder).status().unwrap();
    assert!(status.success(), "git {words:?}");
}

/// A repository with the files that a release checks.
struct Repository(tempfile::TempDir);

impl Repository {
    fn new(version: &str, changelog: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let this = Self(folder);
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/release");
        this.write("scripts/release", &fs::read_to_string(source).unwrap());
        let cargo = "[workspace]\n\n[workspace.package]\nversion = \"1.2.3\"\n";
        this.write("Cargo.toml", cargo);
        let chart = format!("version: {version}\nappVersion: {version}\n");
        this.write("deploy/helm/sluice/Chart.yaml", &chart);
        this.write("CHANGELOG.md", changelog);
        let folder = this.0.path();
        git(folder, &["init", "--quiet"]);
        git(folder, &["add", "."]);
        git(folder, &["commit", "--quiet", "-m", "release"]);
        this
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, content: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn check(&self) -> Output {
        let mut command = Command::new("sh");
        command.arg(self.path("scripts/release")).arg("--check");
        command.output().unwrap()
    }

    fn refusal(&self) -> String {
        let output = self.check();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(output.stdout.is_empty(), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    }
}

const CHANGELOG: &str = "# Changelog\n\n## Unreleased\n\n### Added\n- new\n\n\
    ## 1.2.3 - 2026-12-01\n\n### Fixed\n- this\n\n## 1.2.30\n- old\n";

#[test]
fn a_release_contains_the_changelog_section_of_its_version() {
    let repository = Repository::new("1.2.3", CHANGELOG);
    let output = repository.check();
    assert!(output.status.success(), "{output:?}");
    let section = String::from_utf8(output.stdout).unwrap();
    assert_eq!(section, "\n### Fixed\n- this\n");
}

#[test]
fn a_release_needs_a_changelog_section_a_chart_version_and_a_clean_tree() {
    let missing = Repository::new("1.2.3", &CHANGELOG.replace("1.2.3", "1.2.4"));
    let expected = "release: CHANGELOG.md has no section \"## 1.2.3\"\n";
    assert_eq!(missing.refusal(), expected);
    let chart = Repository::new("1.2.2", CHANGELOG);
    let expected = "release: version in Chart.yaml is not 1.2.3\n";
    assert_eq!(chart.refusal(), expected);
    let dirty = Repository::new("1.2.3", CHANGELOG);
    dirty.write("new", "");
    let expected = "release: the working tree has uncommitted changes\n";
    assert_eq!(dirty.refusal(), expected);
}

/// The next release can be made: its chart and its program have one version.
#[test]
fn the_chart_has_the_version_of_the_program() {
    let chart = include_str!("../../../deploy/helm/sluice/Chart.yaml");
    let version = env!("CARGO_PKG_VERSION");
    for field in ["version", "appVersion"] {
        let line = format!("{field}: {version}");
        assert!(chart.lines().any(|l| l == line), "{line}");
    }
}
