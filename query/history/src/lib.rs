//! Ad-hoc SQL over live views and stored history.
