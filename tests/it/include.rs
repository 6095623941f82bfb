//! Accounts and clients from a directory of files: `include_dir`.

#![expect(clippy::unwrap_used, reason = "tests may panic")]

use std::fs;
use std::path::Path;

use weigate::config::{ClientAccounts, ConfigErrors, Loaded, load};

use crate::harness::{hex, write_private};

const MAIN: &str = "include_dir = \"proxy.d\"\n[store]\nkind = \"memory\"\n";

fn dir() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("proxy.d")).unwrap();
    fs::write(dir.path().join("proxy.toml"), MAIN).unwrap();
    dir
}

fn include(dir: &Path, file: &str, text: &str) {
    fs::write(dir.join("proxy.d").join(file), text).unwrap();
}

/// An account, its client, and its secret beside it.
fn tenant(dir: &Path, number: usize) {
    write_private(&dir.join(format!("proxy.d/t{number}.secret")), &format!("secret-of-{number}\n"));
    let key = hex(weigate::clients::digest(&format!("wgk_{number}")));
    let text = format!(
        "[[accounts]]\nname = \"a{number}\"\napp_id = \"wx{number:016}\"\napp_secret_file = \"t{number}.secret\"\n\
         [[clients]]\nname = \"c{number}\"\nkey_sha256 = \"{key}\"\naccounts = [\"a{number}\"]\n"
    );
    include(dir, &format!("t{number}.toml"), &text);
}

fn loaded(dir: &Path) -> Loaded {
    load(&dir.join("proxy.toml")).unwrap_or_else(|errors| panic!("{errors}"))
}

/// The faults without the directory that the test made.
fn faults(dir: &Path) -> String {
    let errors: ConfigErrors = load(&dir.join("proxy.toml")).unwrap_err();
    errors.to_string().replace(&format!("{}/", dir.display()), "")
}

#[test]
fn every_file_of_the_directory_adds_its_accounts_and_clients() {
    let dir = dir();
    for number in 0..50 {
        tenant(dir.path(), number);
    }
    // What editors, Kubernetes and people leave beside them.
    include(dir.path(), ".t1.toml.swp", "not TOML");
    include(dir.path(), ".hidden.toml", "not TOML");
    include(dir.path(), "README", "not TOML");
    fs::create_dir(dir.path().join("proxy.d/old.toml")).unwrap();

    let loaded = loaded(dir.path());
    assert_eq!(loaded.warnings, Vec::<String>::new());
    let config = loaded.config;
    assert_eq!((config.accounts.len(), config.clients.len()), (50, 50));
    for account in &config.accounts {
        let number = account.name.as_str().trim_start_matches('a');
        assert_eq!(account.app_secret.expose(), format!("secret-of-{number}"));
    }
    let noted: Vec<_> = loaded.settings.iter().map(|set| format!("{}={}", set.name, set.value)).collect();
    assert_eq!(noted, ["store.kind=memory", "include_dir=50 file(s)", "accounts=50", "clients=50"]);
}

#[test]
fn an_account_in_one_file_may_be_used_by_a_client_in_another() {
    let dir = dir();
    tenant(dir.path(), 1);
    tenant(dir.path(), 2);
    let client = |name: &str, accounts: &str| {
        format!(
            "[[clients]]\nname = \"{name}\"\nkey_sha256 = \"{}\"\naccounts = {accounts}\n",
            hex(weigate::clients::digest(name))
        )
    };
    let main = format!("{MAIN}{}{}", client("some", "[\"a2\", \"a1\"]"), client("all", "[\"*\"]"));
    fs::write(dir.path().join("proxy.toml"), main).unwrap();
    let config = loaded(dir.path()).config;
    let of =
        |name: &str| &config.clients.iter().find(|client| client.name.as_str() == name).unwrap().accounts;
    assert!(matches!(of("some"), ClientAccounts::These(names) if names.len() == 2));
    assert_eq!(*of("all"), ClientAccounts::All);
}

#[test]
fn a_fault_names_the_file_it_is_in_and_all_files_are_judged() {
    let dir = dir();
    tenant(dir.path(), 1);
    include(dir.path(), "a_broken.toml", "[[accounts]\nname = \"x\"\n");
    include(dir.path(), "b_foreign.toml", "[server]\nlisten = \"127.0.0.1:0\"\n");
    include(
        dir.path(),
        "c_typed.toml",
        "\n[[clients]]\n  name = 7\nkey_sha256 = \"\"\naccounts = [\"nobody\"]\n",
    );
    fs::write(dir.path().join("proxy.d/d_latin.toml"), b"# caf\xe9\n").unwrap();
    std::os::unix::fs::symlink("nowhere", dir.path().join("proxy.d/e_dangling.toml")).unwrap();
    let said = faults(dir.path());
    let expected = [
        "proxy.d/a_broken.toml:1:",
        "proxy.d/b_foreign.toml:1:2: unknown key `server` in an included file, known are `accounts`, `clients`",
        "proxy.d/c_typed.toml:3:10: `name` has a value of the wrong kind",
        "proxy.d/c_typed.toml:4:14: `key_sha256` is not a digest",
        "proxy.d/c_typed.toml:5:13: `accounts` has a name that no account has",
        "proxy.d/d_latin.toml:1:6: not UTF-8",
        "proxy.d/e_dangling.toml: the configuration cannot be read: there is no such file",
    ];
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines.len(), expected.len(), "{said}");
    for (line, expected) in lines.iter().zip(expected) {
        assert!(line.starts_with(expected), "{line}\ninstead of\n{expected}");
    }
}

#[test]
fn a_name_that_two_files_have_is_a_fault_of_the_second_and_names_the_first() {
    let dir = dir();
    tenant(dir.path(), 1);
    let text = fs::read_to_string(dir.path().join("proxy.d/t1.toml")).unwrap();
    include(dir.path(), "t2.toml", &text);
    let said = faults(dir.path());
    let expected = [
        "proxy.d/t2.toml:2:8: another account has this name (in ",
        "proxy.d/t2.toml:3:10: another account has this `app_id` (in ",
        "proxy.d/t2.toml:6:8: another client has this name (in ",
        "proxy.d/t2.toml:7:14: another client (in ",
    ];
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines.len(), expected.len(), "{said}");
    for (line, expected) in lines.iter().zip(expected) {
        assert!(line.starts_with(expected) && line.contains("proxy.d/t1.toml)"), "{line}");
    }
}

#[test]
fn a_great_many_faults_are_told_as_a_few_and_a_number() {
    let dir = dir();
    for number in 0..1000 {
        include(
            dir.path(),
            &format!("t{number:04}.toml"),
            "[[accounts]]\nname = \"x y\"\napp_id = \"wx1\"\napp_secret_env = \"NONE\"\n",
        );
    }
    let said = faults(dir.path());
    assert_eq!(said.lines().count(), 201, "{said}");
    // Each has a bad name and an unset variable; all but the first share name and AppID with it.
    assert!(said.ends_with("proxy.toml: 3798 more are not shown"), "{}", said.lines().last().unwrap());
}

#[test]
fn a_directory_that_cannot_be_read_is_a_fault_and_an_empty_one_is_not() {
    let dir = dir();
    fs::write(
        dir.path().join("proxy.toml"),
        format!("{MAIN}[[accounts]]\nname = \"shop\"\napp_id = \"wx1\"\napp_secret_file = \"s\"\n"),
    )
    .unwrap();
    write_private(&dir.path().join("s"), "secret");
    assert_eq!(loaded(dir.path()).config.accounts.len(), 1);
    fs::remove_dir(dir.path().join("proxy.d")).unwrap();
    let missing =
        "proxy.toml:1:15: the directory in `include_dir` cannot be read: there is no such directory";
    assert_eq!(faults(dir.path()), missing);
    fs::write(dir.path().join("proxy.d"), "").unwrap();
    assert!(faults(dir.path()).ends_with("it is not a directory"));
}

#[test]
fn an_empty_directory_alone_is_a_configuration_without_accounts() {
    let dir = dir();
    assert!(faults(dir.path()).starts_with("proxy.toml: there is no account"));
}

#[test]
fn a_pipe_in_place_of_a_secret_does_not_hold_up_the_start() {
    let dir = dir();
    tenant(dir.path(), 1);
    let secret = dir.path().join("proxy.d/t1.secret");
    fs::remove_file(&secret).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, &secret, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    assert!(faults(dir.path()).ends_with("the file in `app_secret_file` cannot be read: it is not a file"));
}
