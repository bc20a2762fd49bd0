//! `pyflare backup`, `restore` and `verify`: a data directory as a copy that a start can begin from.
//!
//! A backup is `data/`, a whole data directory, and `backup.json`, which names every file with its BLAKE3 checksum and is
//! written last: a folder without it is no backup. [`pins`] says in which order files are held while a server goes on
//! writing them, so that the copy is of one moment; [`checking`] reads everything there is, as a start would.

mod checking;
mod pins;

use std::fs::{self, File};
use std::io::{self, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Args;
use pyflare_log::DataDirectory;
use serde::{Deserialize, Serialize};

pub use checking::{VerifyArgs, verify};

const FORMAT: u32 = 1;
const LISTING: &str = "backup.json";
const DATA: &str = "data";
const COPIED_AT_ONCE: usize = 1 << 20;

/// Copies a data directory to a folder, also while a server uses it.
#[derive(Debug, Args)]
pub struct BackupArgs {
    /// The data directory
    #[arg(
        long,
        env = "PYFLARE_DATA_DIR",
        default_value = "./pyflare-data",
        hide_env_values = true
    )]
    data_dir: PathBuf,
    /// The folder for the backup, which must be empty or not be there
    #[arg(long)]
    to: PathBuf,
}

/// Makes a data directory from a backup.
#[derive(Debug, Args)]
pub struct RestoreArgs {
    /// The backup
    #[arg(long)]
    from: PathBuf,
    /// The data directory, which must be empty or not be there
    #[arg(
        long,
        env = "PYFLARE_DATA_DIR",
        default_value = "./pyflare-data",
        hide_env_values = true
    )]
    data_dir: PathBuf,
}

/// What is in a backup.
#[derive(Debug, Serialize, Deserialize)]
struct Listing {
    format: u32,
    /// Of the program that made it.
    version: String,
    /// RFC 3339.
    taken_at: String,
    files: Vec<ListedFile>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct ListedFile {
    /// Below `data/`.
    path: PathBuf,
    bytes: u64,
    blake3: String,
}

impl Listing {
    fn read(backup: &Path) -> anyhow::Result<Listing> {
        let path = backup.join(LISTING);
        let text = fs::read(&path).with_context(|| {
            format!(
                "PF-6050: {} is no backup, or one that was not finished: it has no {LISTING}",
                backup.display()
            )
        })?;
        let listing: Listing = serde_json::from_slice(&text)
            .with_context(|| format!("PF-6051: {} cannot be read", path.display()))?;
        if listing.format != FORMAT {
            bail!(
                "PF-6052: the backup has format {}, this version knows {FORMAT}; use the version that made it ({})",
                listing.format,
                listing.version
            );
        }
        let strange = |file: &&ListedFile| {
            let components = file.path.components();
            let mut outside = components.filter(|part| !matches!(part, std::path::Component::Normal(_)));
            outside.next().is_some()
        };
        if let Some(file) = listing.files.iter().find(strange) {
            bail!(
                "PF-6051: {} names {}, which is not a file of a backup",
                path.display(),
                file.path.display()
            );
        }
        Ok(listing)
    }

    fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }
}

/// `pyflare backup`.
pub fn backup(args: BackupArgs) -> anyhow::Result<()> {
    let data = std::path::absolute(&args.data_dir)?;
    let to = std::path::absolute(&args.to)?;
    if !data.join("VERSION").is_file() {
        bail!(
            "PF-6053: {} is no data directory; say which with --data-dir",
            data.display()
        );
    }
    DataDirectory::check(&data)?;
    if to.starts_with(&data) {
        bail!("PF-6054: the backup cannot lie in the data directory itself; choose another folder with --to");
    }
    refuse_used(&to, "--to")?;
    let target = to.join(DATA);
    fs::create_dir_all(&target).with_context(|| format!("PF-6054: {} cannot be made", target.display()))?;
    let pinned = pins::Pins::take(&data)?;
    let mut progress = Progress::of("copied", pinned.bytes());
    let mut files = Vec::new();
    for held in pinned.files() {
        let copied = copy(&held.source, &target.join(&held.path), held.bytes, &mut progress)
            .with_context(|| format!("PF-6055: {} could not be copied", held.path.display()))?;
        files.push(ListedFile {
            path: held.path.clone(),
            ..copied
        });
    }
    drop(pinned);
    let listing = Listing {
        format: FORMAT,
        version: env!("CARGO_PKG_VERSION").into(),
        taken_at: chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Secs, true),
        files,
    };
    let text = serde_json::to_vec_pretty(&listing)?;
    let unfinished = to.join(format!("{LISTING}.new"));
    let written = fs::write(&unfinished, text)
        .and_then(|()| File::open(&unfinished)?.sync_all())
        .and_then(|()| fs::rename(&unfinished, to.join(LISTING)))
        .and_then(|()| File::open(&to)?.sync_all());
    written.with_context(|| format!("PF-6055: {} could not be written", to.join(LISTING).display()))?;
    progress.end();
    println!(
        "{} files, {} are in {}",
        listing.files.len(),
        spoken_bytes(listing.bytes()),
        to.display()
    );
    println!("Check it with: pyflare verify {}", args.to.display());
    Ok(())
}

/// `pyflare restore`.
pub fn restore(args: RestoreArgs) -> anyhow::Result<()> {
    let from = std::path::absolute(&args.from)?;
    let data = std::path::absolute(&args.data_dir)?;
    let listing = Listing::read(&from)?;
    refuse_used(&data, "--data-dir")?;
    fs::create_dir_all(&data).with_context(|| format!("PF-6054: {} cannot be made", data.display()))?;
    let mut progress = Progress::of("copied", listing.bytes());
    // VERSION last: a directory without it is none, whenever this is interrupted.
    let (version, rest): (Vec<_>, Vec<_>) = listing
        .files
        .iter()
        .partition(|file| file.path == Path::new("VERSION"));
    if version.is_empty() {
        bail!("PF-6051: the backup has no file VERSION");
    }
    for file in rest.into_iter().chain(version) {
        let source = from.join(DATA).join(&file.path);
        let target = data.join(&file.path);
        let copied = copy(&source, &target, None, &mut progress)
            .with_context(|| format!("PF-6055: {} could not be copied", source.display()))?;
        if (copied.bytes, &copied.blake3) != (file.bytes, &file.blake3) {
            fs::remove_file(&target)?;
            bail!(
                "PF-6056: {} is damaged: its checksum is another one; nothing can be started from {}, delete it and use \
                 another backup",
                source.display(),
                data.display()
            );
        }
    }
    progress.end();
    println!(
        "{} files, {} of {} are in {}",
        listing.files.len(),
        spoken_bytes(listing.bytes()),
        listing.taken_at,
        data.display()
    );
    println!(
        "Start it with: pyflare serve --data-dir {}",
        args.data_dir.display()
    );
    Ok(())
}

fn refuse_used(folder: &Path, option: &str) -> anyhow::Result<()> {
    let is_used = match fs::read_dir(folder) {
        Ok(mut entries) => entries.next().is_some(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        Err(error) => bail!("PF-6054: {} cannot be used: {error}", folder.display()),
    };
    if is_used {
        bail!(
            "PF-6054: {} is not empty; choose an empty or a new folder with {option}",
            folder.display()
        );
    }
    Ok(())
}

/// Copies the first `bytes` of a file, or all of it, durably; its path is left to the caller.
fn copy(from: &Path, to: &Path, bytes: Option<u64>, progress: &mut Progress) -> io::Result<ListedFile> {
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder)?;
    }
    let mut source = File::open(from)?;
    let mut target = File::create_new(to)?;
    let (mut hasher, mut copied) = (blake3::Hasher::new(), 0);
    let mut buffer = vec![0; COPIED_AT_ONCE];
    loop {
        let wanted = bytes.map_or(COPIED_AT_ONCE as u64, |bytes| {
            (bytes - copied).min(COPIED_AT_ONCE as u64)
        });
        let read = source.read(&mut buffer[..wanted as usize])?;
        if read == 0 {
            break;
        }
        hasher.update(&buffer[..read]);
        target.write_all(&buffer[..read])?;
        copied += read as u64;
        progress.add(read as u64);
    }
    if bytes.is_some_and(|bytes| copied < bytes) {
        return Err(io::Error::other("it became shorter meanwhile"));
    }
    target.sync_all()?;
    Ok(ListedFile {
        path: PathBuf::new(),
        bytes: copied,
        blake3: hasher.finalize().to_hex().to_string(),
    })
}

/// The BLAKE3 checksum of a file, and its bytes.
fn checksum(path: &Path, progress: &mut Progress) -> io::Result<(u64, String)> {
    let mut file = File::open(path)?;
    let (mut hasher, mut bytes) = (blake3::Hasher::new(), 0);
    let mut buffer = vec![0; COPIED_AT_ONCE];
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            return Ok((bytes, hasher.finalize().to_hex().to_string()));
        }
        hasher.update(&buffer[..read]);
        bytes += read as u64;
        progress.add(read as u64);
    }
}

/// Says on a terminal how far something long is.
struct Progress {
    verb: &'static str,
    done: u64,
    all: u64,
    last: Instant,
    is_shown: bool,
}

impl Progress {
    fn of(verb: &'static str, all: u64) -> Progress {
        Progress {
            verb,
            done: 0,
            all,
            last: Instant::now(),
            is_shown: false,
        }
    }

    fn add(&mut self, bytes: u64) {
        self.done += bytes;
        if self.last.elapsed() < Duration::from_millis(500) || !io::stderr().is_terminal() {
            return;
        }
        self.last = Instant::now();
        self.is_shown = true;
        let line = format!(
            "{} {} of {}",
            self.verb,
            spoken_bytes(self.done),
            spoken_bytes(self.all)
        );
        eprint!("\r{line:<50}");
    }

    fn end(self) {
        if self.is_shown {
            eprint!("\r{:<50}\r", "");
        }
    }
}

fn spoken_bytes(bytes: u64) -> String {
    match bytes {
        0..1_000 => format!("{bytes} B"),
        1_000..1_000_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.2} GB", bytes as f64 / 1e9),
    }
}
