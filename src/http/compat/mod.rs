//! Other systems' APIs over our operations: each with its own paths, names, headers and errors.

pub mod mikromeet;
