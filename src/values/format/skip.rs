//! Skipping a value that its type ignores.

use super::access::NamedFields;
use super::error::Error;
use super::reader::Reader;
use super::tag;
use super::tag::Kind;

impl<'de> Reader<'de> {
    /// Skips the next value. The names and shapes that it defines are known afterwards.
    pub(super) fn skip(&mut self) -> Result<(), Error> {
        match self.byte()? {
            tag::UNIT | tag::NONE | tag::FALSE | tag::TRUE => Ok(()),
            tag::CHAR => self.char().map(drop),
            tag::STR => self.text().map(drop),
            tag::BYTES => self.bytes().map(drop),
            tag::BLOCK => self.block().map(drop),
            tag::UNIT_VARIANT => self.name().map(drop),
            number @ tag::NUMBER.. => {
                let kind = Kind::of_code(number - tag::NUMBER).filter(|kind| *kind != Kind::Bool);
                self.take(kind.ok_or_else(Error::malformed)?.size()).map(drop)
            }
            holder => {
                self.enter()?;
                self.skip_inside(holder)
            }
        }
    }

    fn skip_inside(&mut self, holder: u8) -> Result<(), Error> {
        match holder {
            tag::SOME => self.skip(),
            tag::SEQ => {
                self.hint()?;
                self.skip_elements()
            }
            tag::TUPLE => self.skip_elements(),
            tag::MAP => {
                self.hint()?;
                while !self.take_if(tag::END) {
                    self.skip()?;
                    self.skip()?;
                }
                Ok(())
            }
            tag::VARIANT => {
                self.name()?;
                self.skip()
            }
            tag::NEW_STRUCT | tag::STRUCT => {
                let shape = self.shape(holder)?;
                NamedFields::of_shape(self, shape).skip()
            }
            tag::NAMED_STRUCT => NamedFields::of_entries(self).skip(),
            _ => Err(Error::malformed()),
        }
    }

    fn skip_elements(&mut self) -> Result<(), Error> {
        loop {
            if self.take_if(tag::END) {
                return Ok(());
            }
            if self.take_if(tag::RUN) {
                self.run()?;
            } else {
                self.skip()?;
            }
        }
    }
}

impl NamedFields<'_, '_> {
    fn skip(mut self) -> Result<(), Error> {
        while self.next_name()?.is_some() {
            self.reader().skip()?;
        }
        self.finish()
    }
}
