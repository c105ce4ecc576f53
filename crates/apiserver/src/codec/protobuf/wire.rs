//! Protobuf's wire format: numbered fields of four shapes.

use super::table::Type;

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    #[error("it ends in the middle of a field")]
    Truncated,
    #[error("a number is too long")]
    Varint,
    #[error("a field has another type than it should have")]
    Type,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field<'a> {
    Varint(u64),
    Fixed64(u64),
    Fixed32(u32),
    Bytes(&'a [u8]),
}

/// The fields of a message, in the order written. Ends after the first error.
pub struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    pub fn new(message: &'a [u8]) -> Self {
        Self { rest: message }
    }

    fn field(&mut self) -> Result<(u32, Field<'a>), WireError> {
        let tag = self.varint()?;
        let number = u32::try_from(tag >> 3).map_err(|_| WireError::Varint)?;
        let field = match tag & 7 {
            0 => Field::Varint(self.varint()?),
            1 => Field::Fixed64(u64::from_le_bytes(self.array()?)),
            2 => {
                let length = usize::try_from(self.varint()?).map_err(|_| WireError::Truncated)?;
                Field::Bytes(self.take(length)?)
            }
            5 => Field::Fixed32(u32::from_le_bytes(self.array()?)),
            _ => return Err(WireError::Type),
        };
        Ok((number, field))
    }

    fn varint(&mut self) -> Result<u64, WireError> {
        let mut number = 0;
        for shift in (0..u64::BITS).step_by(7) {
            let [byte] = self.array()?;
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Err(WireError::Varint)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        self.take(N)?.try_into().map_err(|_| WireError::Truncated)
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], WireError> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(WireError::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u32, Field<'a>), WireError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.rest = &[];
        }
        Some(field)
    }
}

/// Begins a field: its number, and the wire type that values of its type have.
pub fn put_tag(bytes: &mut Vec<u8>, number: u32, type_: Type) {
    let wire = match type_ {
        Type::Bool | Type::Integer => 0,
        Type::Double => 1,
        Type::String | Type::Bytes | Type::Message(_) => 2,
    };
    put_varint(bytes, u64::from(number) << 3 | wire);
}

pub fn put_varint(bytes: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

/// Puts before everything from `at` on how long it is.
pub fn put_length(bytes: &mut Vec<u8>, at: usize) {
    let mut length = (bytes.len() - at) as u64;
    if length < 0x80 {
        return bytes.insert(at, length as u8);
    }
    let mut prefix = [0; 10];
    let mut count = 0;
    while length >= 0x80 {
        prefix[count] = length as u8 | 0x80;
        length >>= 7;
        count += 1;
    }
    prefix[count] = length as u8;
    bytes.splice(at..at, prefix[..=count].iter().copied());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_read_in_order() {
        let message = [0x08, 0x96, 0x01, 0x12, 0x01, b'x', 0x1d, 1, 0, 0, 0];
        let fields: Vec<_> = Fields::new(&message).collect::<Result<_, _>>().unwrap();
        assert_eq!(fields, [(1, Field::Varint(150)), (2, Field::Bytes(b"x")), (3, Field::Fixed32(1))]);
    }

    #[test]
    fn lengths_go_before_what_they_count() {
        for length in [0, 1, 127, 128, 300, 20_000] {
            let mut bytes = vec![7];
            put_tag(&mut bytes, 2, Type::String);
            let at = bytes.len();
            bytes.resize(at + length, b'x');
            put_length(&mut bytes, at);
            let expected = vec![b'x'; length];
            assert_eq!(Fields::new(&bytes[1..]).next(), Some(Ok((2, Field::Bytes(&expected)))));
        }
    }

    #[test]
    fn broken_messages_end() {
        for (message, error) in [
            (&[0x08][..], WireError::Truncated),
            (&[0x12, 0x05, b'x'], WireError::Truncated),
            (&[0x0b], WireError::Type),
            (&[0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01], WireError::Varint),
        ] {
            let mut fields = Fields::new(message);
            assert_eq!(fields.next(), Some(Err(error)));
            assert_eq!(fields.next(), None);
        }
    }
}
