//! Where checkpoints lie: named files that are written once, whole or not at all.
//!
//! What a checkpoint says is encoded in `dataflows`; what is kept and what goes is decided there too.

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CheckpointError {
    #[error("PF-2401: reading or writing checkpoints failed on {path}: {detail}")]
    Io { path: String, detail: String },
    #[error("PF-2402: {name:?} cannot be the name of a checkpoint's file: {detail}")]
    Name { name: String, detail: String },
    #[error("PF-2403: {detail}")]
    Settings { detail: String },
    #[error(
        "PF-2404: {place} refuses this server ({detail}); give it credentials that may list, read, create and delete there, in the environment, by the names that the cloud's own tools use"
    )]
    Refused { place: String, detail: String },
    #[error(
        "PF-2405: the checkpoints in {place} belong to another data directory, of the history {owner}; choose another checkpoints.url for this one, each needs a place of its own"
    )]
    Owned { place: String, owner: String },
}

impl CheckpointError {
    /// The stable code, such as `PF-2401`.
    pub fn code(&self) -> &'static str {
        match self {
            CheckpointError::Io { .. } => "PF-2401",
            CheckpointError::Name { .. } => "PF-2402",
            CheckpointError::Settings { .. } => "PF-2403",
            CheckpointError::Refused { .. } => "PF-2404",
            CheckpointError::Owned { .. } => "PF-2405",
        }
    }
}

/// A set of named files.
///
/// Invariants (checked by [`crate::conformance`]): [`CheckpointStore::create`] returns once the whole content survives
/// power loss; of several that create one name at the same time exactly one does, and nobody ever sees a part of a file; a
/// file never changes. Names are made of ASCII letters, digits, `-`, `_`, `.` and `/`.
pub trait CheckpointStore: Send + Sync + 'static {
    /// Writes a file durably; false, and nothing is changed, if there is one of that name.
    fn create(&self, name: &str, content: &[u8]) -> Result<bool, CheckpointError>;

    /// The content of a file, if there is one of that name.
    fn read(&self, name: &str) -> Result<Option<Vec<u8>>, CheckpointError>;

    /// All files with their sizes in bytes, in the order of their names.
    fn list(&self) -> Result<Vec<(String, u64)>, CheckpointError>;

    /// Deletes a file; does nothing if there is none.
    fn delete(&self, name: &str) -> Result<(), CheckpointError>;

    /// From now on nothing is waited for long, as a server that stops needs it.
    fn give_up(&self) {}
}

/// Refuses names that are not what [`CheckpointStore`] says.
pub fn check_name(name: &str) -> Result<(), CheckpointError> {
    let refused = |detail: &str| {
        Err(CheckpointError::Name {
            name: name.into(),
            detail: detail.into(),
        })
    };
    if let Some(wrong) = name
        .chars()
        .find(|letter| !(letter.is_ascii_alphanumeric() || "-_./".contains(*letter)))
    {
        return refused(&format!("it contains {wrong:?}"));
    }
    match name
        .split('/')
        .any(|part| part.is_empty() || part.starts_with('.'))
    {
        true => refused("a part of it is empty or begins with a dot"),
        false => Ok(()),
    }
}
