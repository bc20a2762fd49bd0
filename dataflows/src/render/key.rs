//! Keys of arrangements, as row bytes.
//!
//! Short ones lie in the arrangement itself: comparing them follows no pointer, copying them allocates nothing. Two texts
//! of some characters, or a pane and a text, are short.

use std::borrow::Borrow;
use std::hash::{Hash, Hasher};
use std::ops::Deref;

use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

/// Bytes of a key that are kept in it.
const INLINE: usize = 40;

/// Bytes that compare as the rows do that they encode.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub(crate) struct Key(SmallVec<[u8; INLINE]>);

impl Key {
    /// One after the other.
    pub fn joined(parts: &[&[u8]]) -> Key {
        let mut bytes = SmallVec::with_capacity(parts.iter().map(|part| part.len()).sum());
        for part in parts {
            bytes.extend_from_slice(part);
        }
        Key(bytes)
    }

    /// What it takes beside itself.
    pub fn heap_bytes(&self) -> usize {
        if self.0.spilled() { self.0.len() } else { 0 }
    }
}

impl From<&[u8]> for Key {
    fn from(bytes: &[u8]) -> Key {
        Key(SmallVec::from_slice(bytes))
    }
}

impl Clone for Key {
    fn clone(&self) -> Key {
        // As bytes; a small vector would clone them one by one.
        Key::from(&self.0[..])
    }
}

impl Deref for Key {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl Borrow<[u8]> for Key {
    fn borrow(&self) -> &[u8] {
        self
    }
}

impl Hash for Key {
    /// As the bytes do, which [`Borrow`] asks for.
    fn hash<H: Hasher>(&self, state: &mut H) {
        self[..].hash(state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_ordered_and_hashed_as_their_bytes_short_or_long() {
        let long = [7_u8; 3 * INLINE];
        let texts: [&[u8]; 6] = [b"", b"a", b"a\0", b"b", &long[..INLINE], &long];
        for one in texts {
            for other in texts {
                assert_eq!(Key::from(one).cmp(&Key::from(other)), one.cmp(other));
            }
            let keys: hashbrown::HashSet<Key> = [Key::from(one)].into();
            assert!(keys.contains(one));
            assert_eq!(
                Key::from(one).clone().heap_bytes(),
                if one.len() > INLINE { one.len() } else { 0 }
            );
        }
        assert_eq!(Key::joined(&[b"a", b"", b"bc"])[..], b"abc"[..]);
        assert!(size_of::<Key>() <= INLINE + 8);
    }
}
