//! Parts that most rules leave as they are: ten thousand rules have not ten thousand copies of them.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, LazyLock};

use super::{Accept, Connect, Rates, Timeouts};

/// What a part is where nothing is said of it.
pub trait Standard: Clone + PartialEq + 'static {
    fn standard() -> &'static Self;
}

macro_rules! standard {
    ($($part:ty),+) => {$(
        impl Standard for $part {
            fn standard() -> &'static Self {
                static STANDARD: LazyLock<$part> = LazyLock::new(<$part>::default);
                &STANDARD
            }
        }
    )+};
}

standard!(Accept, Connect, Rates, Timeouts);

/// A part of a rule, in memory of its own only if it is out of the ordinary.
#[derive(Clone, Debug)]
pub struct Usual<T>(Option<Arc<T>>);

impl<T> Default for Usual<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<T: Standard> From<T> for Usual<T> {
    fn from(part: T) -> Self {
        Self((part != *T::standard()).then(|| Arc::new(part)))
    }
}

impl<T: Standard> Deref for Usual<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.0.as_deref().unwrap_or_else(|| T::standard())
    }
}

impl<T: Standard> DerefMut for Usual<T> {
    fn deref_mut(&mut self) -> &mut T {
        Arc::make_mut(self.0.get_or_insert_with(|| Arc::new(T::standard().clone())))
    }
}

impl<T: Standard> PartialEq for Usual<T> {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl<T: Standard + Eq> Eq for Usual<T> {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_out_of_the_ordinary_takes_memory() {
        let mut connect = Usual::from(Connect::default());
        assert!(connect.0.is_none() && connect == Usual::default());
        connect.mptcp = true;
        assert_eq!(connect, Connect { mptcp: true, ..Connect::default() }.into());
        connect.mptcp = false;
        assert_eq!(connect, Usual::default(), "whichever way it came about");
    }
}
