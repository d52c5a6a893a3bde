//! The cycle, the text and the command line
