//! One set of promises, run against every store; and what the file store alone has to stand.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use weigate::config::{self, SealKey};
use weigate::token::store::{FileStore, MemoryStore, Stored};
use weigate::token::{ConfiguredStore, StoreError, TokenStore};
use weigate::types::{AccessToken, AccountName, AppId, UnixSeconds};
use zeroize::Zeroizing;

fn account(name: &str) -> AccountName {
    AccountName::parse(name).unwrap()
}

fn app(id: &str) -> AppId {
    AppId::parse(id).unwrap()
}

fn stored(token: &str) -> Stored {
    Stored {
        access_token: AccessToken::parse(token).unwrap(),
        obtained_at: UnixSeconds(1_800_000_000),
        expires_at: UnixSeconds(1_800_007_200),
        fence: 7,
    }
}

fn blob(bytes: &[u8]) -> Zeroizing<Vec<u8>> {
    Zeroizing::new(bytes.to_vec())
}

async fn token_of(store: &impl TokenStore, name: &str, id: &str) -> Option<String> {
    store.load(&account(name), &app(id)).await.unwrap().map(|stored| stored.access_token.expose().to_owned())
}

async fn every_promise(store: impl TokenStore) {
    assert!(token_of(&store, "shop", "wx1").await.is_none(), "nothing saved");

    store.save(&account("shop"), &app("wx1"), &stored("first")).await.unwrap();
    store.save(&account("blog"), &app("wx2"), &stored("other")).await.unwrap();
    let found = store.load(&account("shop"), &app("wx1")).await.unwrap().unwrap();
    assert_eq!(found.access_token.expose(), "first");
    assert_eq!((found.obtained_at.0, found.expires_at.0, found.fence), (1_800_000_000, 1_800_007_200, 7));

    store.clone().save(&account("shop"), &app("wx1"), &stored("second")).await.unwrap();
    assert_eq!(token_of(&store, "shop", "wx1").await.as_deref(), Some("second"), "the last one counts");
    assert_eq!(token_of(&store, "blog", "wx2").await.as_deref(), Some("other"), "accounts are apart");

    assert!(token_of(&store, "shop", "wx9").await.is_none(), "another AppID's token is not taken");
    assert_eq!(token_of(&store, "shop", "wx1").await.as_deref(), Some("second"), "and stays where it is");
    store.save(&account("shop"), &app("wx9"), &stored("third")).await.unwrap();
    assert_eq!(token_of(&store, "shop", "wx9").await.as_deref(), Some("third"));
    assert!(token_of(&store, "shop", "wx1").await.is_none());

    assert!(store.load_blob("placeholder-key").await.unwrap().is_none());
    for bytes in [&b"0123456789abcdef0123456789abcdef"[..], b"", b"\n\0\xff"] {
        store.save_blob("placeholder-key", blob(bytes)).await.unwrap();
        assert_eq!(store.load_blob("placeholder-key").await.unwrap().unwrap().as_slice(), bytes);
    }
    for name in ["", "../x", "A", "a.b", "a/b"] {
        assert!(matches!(store.save_blob(name, blob(b"x")).await, Err(StoreError::Blob)), "{name}");
        assert!(matches!(store.load_blob(name).await, Err(StoreError::Blob)), "{name}");
    }
    assert!(store.save_blob("big", blob(&vec![7; 64 * 1024])).await.is_ok());
    assert_eq!(store.load_blob("big").await.unwrap().unwrap().len(), 64 * 1024);
    assert!(matches!(store.save_blob("big", blob(&vec![7; 64 * 1024 + 1])).await, Err(StoreError::Blob)));
}

#[tokio::test]
async fn memory_keeps_every_promise() {
    every_promise(MemoryStore::default()).await;
    every_promise(ConfiguredStore::open(&config::Store::Memory).unwrap()).await;
}

#[tokio::test]
async fn files_keep_every_promise() {
    let dir = tempfile::tempdir().unwrap();
    every_promise(FileStore::open(&dir.path().join("a/b")).unwrap()).await;
    let key = SealKey::new(Zeroizing::new(*b"a seal key of exactly 32 bytes.."));
    every_promise(FileStore::open_sealed(&dir.path().join("s"), Some(&key)).unwrap()).await;
    let dir = config::Store::File { dir: dir.path().join("c"), seal_key: None };
    every_promise(ConfiguredStore::open(&dir).unwrap()).await;
}

#[tokio::test]
async fn files_outlive_the_process_and_are_the_owners_alone() {
    let (_scratch, dir) = a_saved_token().await;
    let store = FileStore::open(&dir).unwrap();
    assert_eq!(token_of(&store, "shop", "wx1").await.as_deref(), Some("old"));
    store.save_blob("placeholder-key", blob(b"k")).await.unwrap();

    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&dir), 0o700);
    let files: Vec<_> = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(files.len(), 3, "{files:?}");
    assert!(files.iter().all(|file| mode(file) == 0o600));
}

#[tokio::test]
async fn a_second_process_on_the_same_directory_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let first = FileStore::open(dir.path()).unwrap();
    let refused = FileStore::open(dir.path()).unwrap_err();
    assert!(matches!(refused, StoreError::InUse(_)));
    assert!(refused.to_string().contains("in use by another process"), "{refused}");
    drop(first);
    FileStore::open(dir.path()).unwrap();
}

/// A directory in which account `shop` of `wx1` has the token `old`.
async fn a_saved_token() -> (tempfile::TempDir, PathBuf) {
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path().join("state");
    let store = FileStore::open(&dir).unwrap();
    store.save(&account("shop"), &app("wx1"), &stored("old")).await.unwrap();
    (scratch, dir)
}

fn bad_files(dir: &Path) -> usize {
    let name = |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name().into_string().unwrap();
    fs::read_dir(dir).unwrap().map(name).filter(|name| name.contains(".token.bad-")).count()
}

#[tokio::test]
async fn a_file_cut_off_at_any_byte_is_a_miss_and_set_aside() {
    let (_scratch, dir) = a_saved_token().await;
    let (store, file) = (FileStore::open(&dir).unwrap(), dir.join("shop.token"));
    let whole = fs::read(&file).unwrap();
    for length in 0..whole.len() {
        fs::write(&file, &whole[..length]).unwrap();
        assert!(token_of(&store, "shop", "wx1").await.is_none(), "cut off at {length}");
        assert!(!file.exists(), "cut off at {length}: still in place");
    }
    assert!((1..=4).contains(&bad_files(&dir)), "{}", bad_files(&dir));
    fs::write(&file, &whole).unwrap();
    assert_eq!(token_of(&store, "shop", "wx1").await.as_deref(), Some("old"));
}

#[tokio::test]
async fn no_changed_bit_goes_unnoticed() {
    let (_scratch, dir) = a_saved_token().await;
    let (store, file) = (FileStore::open(&dir).unwrap(), dir.join("shop.token"));
    let whole = fs::read(&file).unwrap();
    let mut flips: Vec<usize> = (0..whole.len() * 8).collect();
    fastrand::Rng::with_seed(7).shuffle(&mut flips);
    for flip in flips.iter().cycle().take(2000) {
        let mut changed = whole.clone();
        changed[flip / 8] ^= 1 << (flip % 8);
        fs::write(&file, &changed).unwrap();
        assert!(token_of(&store, "shop", "wx1").await.is_none(), "bit {flip}");
    }
}

#[tokio::test]
async fn what_is_not_ours_is_a_miss_and_never_a_panic() {
    let (_scratch, dir) = a_saved_token().await;
    let (store, file) = (FileStore::open(&dir).unwrap(), dir.join("shop.token"));
    let whole = fs::read(&file).unwrap();
    store.save(&account("blog"), &app("wx1"), &stored("blogs")).await.unwrap();
    let another_accounts = fs::read(dir.join("blog.token")).unwrap();
    let twice = [whole.clone(), whole.clone()].concat();
    let later_version = String::from_utf8(whole).unwrap().replace("weigate-token 1", "weigate-token 2");
    for bytes in [
        b"".to_vec(),
        b"\n".to_vec(),
        b"{}".to_vec(),
        vec![0; 10_000_000],
        b"\xff".repeat(500),
        another_accounts,
        twice,
        later_version.into_bytes(),
    ] {
        fs::write(&file, &bytes).unwrap();
        assert!(token_of(&store, "shop", "wx1").await.is_none(), "{:?}", &bytes[..bytes.len().min(40)]);
        assert!(!file.exists());
    }
    assert_eq!(
        token_of(&store, "blog", "wx1").await.as_deref(),
        Some("blogs"),
        "one account's trouble is its own"
    );
}

#[tokio::test]
async fn a_torn_blob_is_a_miss_too() {
    let dir = tempfile::tempdir().unwrap();
    let store = FileStore::open(dir.path()).unwrap();
    store.save_blob("placeholder-key", blob(&[7; 32])).await.unwrap();
    let file = dir.path().join("placeholder-key.blob");
    let whole = fs::read(&file).unwrap();
    for length in 0..whole.len() {
        fs::write(&file, &whole[..length]).unwrap();
        assert!(store.load_blob("placeholder-key").await.unwrap().is_none(), "{length}");
    }
}

/// A process killed between any two steps of a write: what is on the disk then, and what the next start makes of it.
#[tokio::test]
async fn a_write_killed_at_any_step_leaves_the_old_token_or_the_new() {
    let (_scratch, dir) = a_saved_token().await;
    let old = fs::read(dir.join("shop.token")).unwrap();
    let store = FileStore::open(&dir).unwrap();
    store.save(&account("shop"), &app("wx1"), &stored("new")).await.unwrap();
    drop(store);
    let new = fs::read(dir.join("shop.token")).unwrap();
    let aside = dir.join(".shop.token.tmp");

    // Before the rename: the new one lies aside, written up to any byte.
    for length in 0..=new.len() {
        fs::write(dir.join("shop.token"), &old).unwrap();
        fs::write(&aside, &new[..length]).unwrap();
        let store = FileStore::open(&dir).unwrap();
        assert!(!aside.exists(), "the next start clears it");
        assert_eq!(token_of(&store, "shop", "wx1").await.as_deref(), Some("old"));
    }
    // Before the first rename of all there is none.
    fs::remove_file(dir.join("shop.token")).unwrap();
    fs::write(&aside, &new).unwrap();
    let store = FileStore::open(&dir).unwrap();
    assert!(token_of(&store, "shop", "wx1").await.is_none());

    // A write that failed within this process leaves nothing that stops the next one.
    fs::write(&aside, "half").unwrap();
    store.save(&account("shop"), &app("wx1"), &stored("newer")).await.unwrap();
    assert_eq!(token_of(&store, "shop", "wx1").await.as_deref(), Some("newer"));
}

#[tokio::test]
async fn a_directory_that_is_gone_is_an_error_and_no_panic() {
    let (_scratch, dir) = a_saved_token().await;
    let store = FileStore::open(&dir).unwrap();
    fs::remove_dir_all(&dir).unwrap();
    let failed = store.save(&account("shop"), &app("wx1"), &stored("new")).await.unwrap_err();
    assert!(matches!(failed, StoreError::Io { .. }));
    assert!(!failed.to_string().contains("new\""), "{failed}");
    fs::create_dir(&dir).unwrap();
    store.save(&account("shop"), &app("wx1"), &stored("new")).await.unwrap();
    assert_eq!(
        token_of(&store, "shop", "wx1").await.as_deref(),
        Some("new"),
        "it recovers without a restart"
    );
}

#[test]
fn nothing_stored_prints_its_token() {
    let printed = format!("{:?}", stored("canary-token"));
    assert!(!printed.contains("canary"), "{printed}");
}

#[tokio::test]
async fn sealed_files_show_no_token_and_open_with_their_key_only_and_open_ones_are_not_taken() {
    let dir = tempfile::tempdir().unwrap();
    let (file, blob_file) = (dir.path().join("shop.token"), dir.path().join("placeholder-key.blob"));
    let key = |byte| SealKey::new(Zeroizing::new([byte; 32]));
    let open = |key: Option<&SealKey>| FileStore::open_sealed(dir.path(), key).unwrap();
    let save = async |store: FileStore| {
        store.save(&account("shop"), &app("wx1"), &stored("plainly-visible")).await.unwrap();
        store.save_blob("placeholder-key", blob(b"plainly-visible-too")).await.unwrap();
    };
    let shows = |path: &Path| String::from_utf8_lossy(&fs::read(path).unwrap()).contains("plainly-visible");

    save(open(None)).await;
    assert!(shows(&file) && shows(&blob_file));
    // A key was set since: what lies open goes.
    let store = open(Some(&key(1)));
    assert!(token_of(&store, "shop", "wx1").await.is_none() && !file.exists());
    assert!(store.load_blob("placeholder-key").await.unwrap().is_none() && !blob_file.exists());
    save(store).await;
    assert!(!shows(&file) && !shows(&blob_file));
    assert_eq!(token_of(&open(Some(&key(1))), "shop", "wx1").await.as_deref(), Some("plainly-visible"));

    // Another account's file in this one's place is not this one's.
    fs::copy(&file, dir.path().join("blog.token")).unwrap();
    assert!(token_of(&open(Some(&key(1))), "blog", "wx1").await.is_none());
    assert!(token_of(&open(Some(&key(2))), "shop", "wx1").await.is_none(), "another key");
    assert!(!file.exists(), "and it is set aside");
    save(open(Some(&key(1)))).await;
    assert!(token_of(&open(None), "shop", "wx1").await.is_none(), "no key");
}
