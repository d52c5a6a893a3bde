//! What stands before the weights of a GGUF file, checked against the file's length before anything is made of it.

use std::collections::HashMap;

use serde_json::{Map, Value};

use super::super::stored::Entry;
use super::types;

/// Metadata entries and tensors that a file may have.
const MAX_ENTRIES: u64 = 1 << 16;

/// Longest name of an entry or a tensor, bytes.
const MAX_NAME: u64 = 1 << 10;

/// Axes of a tensor.
const MAX_AXES: u32 = 4;

/// Arrays within arrays, which no model here has, but which a file may carry along.
const MAX_DEPTH: u32 = 4;

/// Where tensors begin if the file does not say it: at multiples of this.
const ALIGNMENT: u64 = 32;

/// Versions that are read.
const VERSIONS: [u32; 2] = [2, 3];

// The types of metadata.
const UINT8: u32 = 0;
const INT8: u32 = 1;
const UINT16: u32 = 2;
const INT16: u32 = 3;
const UINT32: u32 = 4;
const INT32: u32 = 5;
const FLOAT32: u32 = 6;
const BOOL: u32 = 7;
const STRING: u32 = 8;
const ARRAY: u32 = 9;
const UINT64: u32 = 10;
const INT64: u32 = 11;
const FLOAT64: u32 = 12;

/// The header of a well-formed file, or the reason why it is none.
pub(super) struct Header<'a> {
    /// Metadata that is one value. An array shows as a description of itself.
    pub(super) fields: Map<String, Value>,
    pub(super) arrays: HashMap<String, Array<'a>>,
    pub(super) tensors: Vec<(String, Entry)>,
}

/// An array of metadata, where it lies.
#[derive(Clone, Copy)]
pub(super) struct Array<'a> {
    kind: u32,
    len: usize,
    bytes: &'a [u8],
}

impl<'a> Header<'a> {
    pub(super) fn read(bytes: &'a [u8]) -> Result<Header<'a>, String> {
        let mut cursor = Cursor { bytes, at: 0 };
        if cursor.take(4)? != b"GGUF" {
            return Err("it does not begin with GGUF".to_owned());
        }
        let version = cursor.u32()?;
        if VERSIONS.contains(&version.swap_bytes()) {
            return Err(format!("version {} in big-endian order, allowed is little-endian", version.swap_bytes()));
        }
        if !VERSIONS.contains(&version) {
            return Err(format!("version {version}, allowed is 2 or 3"));
        }
        let tensors = cursor.count("tensors")?;
        let entries = cursor.count("metadata entries")?;
        let mut header = Header { fields: Map::new(), arrays: HashMap::new(), tensors: Vec::new() };
        for _ in 0..entries {
            header.entry(&mut cursor)?;
        }
        let infos = (0..tensors).map(|_| Info::read(&mut cursor)).collect::<Result<Vec<_>, _>>()?;
        header.tensors = place(infos, header.alignment()?, cursor.at, bytes.len())?;
        Ok(header)
    }

    fn entry(&mut self, cursor: &mut Cursor<'a>) -> Result<(), String> {
        let key = cursor.name()?;
        if self.fields.contains_key(&key) {
            return Err(format!("metadata {key} stands there twice"));
        }
        let within = |reason| format!("metadata {key}: {reason}");
        let kind = cursor.u32().map_err(within)?;
        let value = if kind == ARRAY {
            let array = cursor.array().map_err(within)?;
            self.arrays.insert(key.clone(), array);
            Value::from(format!("an array of {}", array.len))
        } else {
            cursor.value(kind).map_err(within)?
        };
        self.fields.insert(key, value);
        Ok(())
    }

    fn alignment(&self) -> Result<u64, String> {
        let key = "general.alignment";
        match self.fields.get(key) {
            None => Ok(ALIGNMENT),
            Some(value) => {
                let alignment = value.as_u64().filter(|n| n.is_power_of_two() && (8..=1 << 16).contains(n));
                alignment.ok_or_else(|| format!("{key} is {value}, allowed is a power of two from 8 to 65536"))
            }
        }
    }
}

impl<'a> Array<'a> {
    /// Its strings, or none where it holds something else.
    pub(super) fn strings(self) -> Option<impl Iterator<Item = &'a [u8]>> {
        let mut cursor = Cursor { bytes: self.bytes, at: 0 };
        // The walk over the header has seen that they are all there.
        (self.kind == STRING).then(|| (0..self.len).map_while(move |_| cursor.string().ok()))
    }

    /// Its numbers of 32 bits.
    pub(super) fn int32(self) -> Option<Vec<i32>> {
        let numbers = self.bytes.chunks_exact(4).map(|b| i32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        matches!(self.kind, INT32 | UINT32).then(|| numbers.collect())
    }
}

/// What the header says about a tensor.
struct Info {
    name: String,
    /// The outermost axis first.
    shape: Vec<usize>,
    kind: super::super::stored::Kind,
    bytes: u64,
    offset: u64,
}

impl Info {
    fn read(cursor: &mut Cursor<'_>) -> Result<Info, String> {
        let name = cursor.name()?;
        let within = |reason| format!("tensor {name}: {reason}");
        let axes = cursor.u32().map_err(within)?;
        if !(1..=MAX_AXES).contains(&axes) {
            return Err(within(format!("{axes} axes, allowed is 1 to {MAX_AXES}")));
        }
        let axes = (0..axes).map(|_| cursor.u64()).collect::<Result<Vec<u64>, _>>().map_err(within)?;
        let number = cursor.u32().map_err(within)?;
        let kind =
            types::of(number).map_err(|name| within(format!("of type {name}, allowed is {}", types::READABLE)))?;
        let offset = cursor.u64().map_err(within)?;
        let (elements, size) = (kind.block.0 as u64, kind.block.1 as u64);
        if axes.contains(&0) || !axes[0].is_multiple_of(elements) {
            let allowed = format!("axes above 0, the first a multiple of {elements}");
            return Err(within(format!("axes {axes:?}, allowed is {allowed}")));
        }
        let all = axes.iter().try_fold(1_u64, |product, axis| product.checked_mul(*axis));
        let bytes = all.and_then(|all| (all / elements).checked_mul(size));
        let bytes = bytes.ok_or_else(|| within(format!("axes {axes:?}, whose product is beyond 64 bits")))?;
        let shape = axes.iter().rev().map(|axis| *axis as usize).collect();
        Ok(Info { name, shape, kind: kind.kind, bytes, offset })
    }
}

/// Where the tensors lie in a file of `len` bytes whose header ends at `end`. None may reach beyond it or into another.
fn place(infos: Vec<Info>, alignment: u64, end: usize, len: usize) -> Result<Vec<(String, Entry)>, String> {
    let start = (end as u64).next_multiple_of(alignment);
    let room = (len as u64).saturating_sub(start);
    let mut order: Vec<&Info> = infos.iter().collect();
    order.sort_by_key(|info| info.offset);
    let mut free = 0;
    for info in order {
        let Info { name, offset, bytes, .. } = info;
        if !offset.is_multiple_of(alignment) {
            return Err(format!("tensor {name}: offset {offset}, allowed is a multiple of {alignment}"));
        }
        if *offset < free {
            return Err(format!(
                "tensor {name}: offset {offset}, which lies in another tensor, allowed is from {free}"
            ));
        }
        match offset.checked_add(*bytes) {
            Some(end) if end <= room => free = end,
            _ => return Err(format!("tensor {name}: {bytes} bytes at offset {offset}, the file has {room}")),
        }
    }
    let entry = |info: Info| {
        let at = (start + info.offset) as usize;
        (info.name, Entry { range: at..at + info.bytes as usize, kind: info.kind, shape: info.shape })
    };
    Ok(infos.into_iter().map(entry).collect())
}

/// A place in the header.
struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, len: u64) -> Result<&'a [u8], String> {
        let left = self.bytes.len() - self.at;
        if len > left as u64 {
            return Err(format!("{len} bytes at byte {}, the file has {left} more", self.at));
        }
        let taken = &self.bytes[self.at..][..len as usize];
        self.at += len as usize;
        Ok(taken)
    }

    fn fixed<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let mut bytes = [0; N];
        bytes.copy_from_slice(self.take(N as u64)?);
        Ok(bytes)
    }

    fn u32(&mut self) -> Result<u32, String> {
        self.fixed().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, String> {
        self.fixed().map(u64::from_le_bytes)
    }

    fn count(&mut self, what: &str) -> Result<u64, String> {
        let count = self.u64()?;
        if count <= MAX_ENTRIES { Ok(count) } else { Err(format!("{count} {what}, allowed is up to {MAX_ENTRIES}")) }
    }

    fn string(&mut self) -> Result<&'a [u8], String> {
        let len = self.u64()?;
        self.take(len)
    }

    fn name(&mut self) -> Result<String, String> {
        let len = self.u64()?;
        if len > MAX_NAME {
            return Err(format!("a name of {len} bytes at byte {}, allowed is up to {MAX_NAME}", self.at));
        }
        let at = self.at;
        let name = self.take(len)?.to_vec();
        String::from_utf8(name).map_err(|_| format!("a name at byte {at} that is not UTF-8"))
    }

    fn value(&mut self, kind: u32) -> Result<Value, String> {
        Ok(match kind {
            UINT8 => Value::from(u8::from_le_bytes(self.fixed()?)),
            INT8 => Value::from(i8::from_le_bytes(self.fixed()?)),
            UINT16 => Value::from(u16::from_le_bytes(self.fixed()?)),
            INT16 => Value::from(i16::from_le_bytes(self.fixed()?)),
            UINT32 => Value::from(self.u32()?),
            INT32 => Value::from(i32::from_le_bytes(self.fixed()?)),
            UINT64 => Value::from(self.u64()?),
            INT64 => Value::from(i64::from_le_bytes(self.fixed()?)),
            FLOAT32 => number(f64::from(f32::from_le_bytes(self.fixed()?))),
            FLOAT64 => number(f64::from_le_bytes(self.fixed()?)),
            BOOL => Value::from(self.fixed::<1>()? != [0]),
            STRING => {
                let text = self.string()?.to_vec();
                Value::from(String::from_utf8(text).map_err(|_| "a string that is not UTF-8".to_owned())?)
            }
            _ => return Err(format!("type {kind}, allowed is 0 to 12")),
        })
    }

    fn array(&mut self) -> Result<Array<'a>, String> {
        let (kind, len) = (self.u32()?, self.u64()?);
        let start = self.at;
        self.skip(kind, len, 1)?;
        // No longer than the file, as every element has a byte.
        Ok(Array { kind, len: len as usize, bytes: &self.bytes[start..self.at] })
    }

    /// Passes over `len` values.
    fn skip(&mut self, kind: u32, len: u64, depth: u32) -> Result<(), String> {
        let size = match kind {
            UINT8 | INT8 | BOOL => 1,
            UINT16 | INT16 => 2,
            UINT32 | INT32 | FLOAT32 => 4,
            UINT64 | INT64 | FLOAT64 => 8,
            STRING => {
                for _ in 0..len {
                    self.string()?;
                }
                return Ok(());
            }
            ARRAY if depth < MAX_DEPTH => {
                for _ in 0..len {
                    let (kind, len) = (self.u32()?, self.u64()?);
                    self.skip(kind, len, depth + 1)?;
                }
                return Ok(());
            }
            ARRAY => return Err(format!("arrays within arrays, allowed is a depth of {MAX_DEPTH}")),
            _ => return Err(format!("an array of type {kind}, allowed is 0 to 12")),
        };
        let bytes = len.checked_mul(size).ok_or_else(|| format!("an array of {len}, beyond 64 bits"))?;
        self.take(bytes).map(|_| ())
    }
}

/// A number, or its name where JSON has none for it.
fn number(value: f64) -> Value {
    serde_json::Number::from_f64(value).map_or_else(|| Value::from(value.to_string()), Value::Number)
}
