//! Norms over columns, forward and backward.

use candle_core::D;

use crate::backend::BackendError;
use crate::backend::candle::Candle;
use crate::program::build::Program;
use crate::program::instruction::{Dropout, Instruction};
use crate::program::value::ValueId;

type Result<T> = std::result::Result<T, BackendError>;

impl Candle {
    pub(super) fn norms(&mut self, program: &Program, instruction: &Instruction) -> Result<()> {
        match *instruction {
            Instruction::Norm {
                y,
                bias,
                residual,
                dropout,
                gain,
                shift,
                epsilon,
                normalized,
                scale,
                out,
                after,
            } => {
                let mut v = self.get(program, y)?;
                if let Some(bias) = bias {
                    v = v.broadcast_add(&self.get(program, bias)?)?;
                }
                v = self.masked(program, v, dropout, out)?;
                if let Some(residual) = residual {
                    v = (v + self.get(program, residual)?)?;
                }
                let centred = v.broadcast_sub(&v.mean_keepdim(D::Minus1)?)?;
                let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
                let rstd = (variance + f64::from(epsilon))?.sqrt()?.recip()?;
                let x = centred.broadcast_mul(&rstd)?;
                self.set(program, scale, rstd.squeeze(D::Minus1)?, false)?;
                self.set(program, normalized, x, false)?;
                self.recover(program, normalized, gain, shift, out, after)
            }
            Instruction::Recover { normalized, gain, shift, out, after } => {
                self.recover(program, normalized, gain, shift, out, after)
            }
            Instruction::NormBackward {
                dout,
                normalized,
                scale,
                gain,
                dropout,
                after,
                dv,
                dy,
                dgain,
                dshift,
                dbias,
            } => {
                let gradient = self.get(program, dout)?;
                let gradient = self.masked(program, gradient, after, dout)?;
                let x = self.get(program, normalized)?;
                if let Some(dgain) = dgain {
                    self.set(program, dgain, (&gradient * &x)?.sum(0)?, true)?;
                }
                if let Some(dshift) = dshift {
                    self.set(program, dshift, gradient.sum(0)?, true)?;
                }
                let g = gradient.broadcast_mul(&self.get(program, gain)?)?;
                let mean = g.mean_keepdim(D::Minus1)?;
                let inner = (&g * &x)?.mean_keepdim(D::Minus1)?;
                let centred = (g.broadcast_sub(&mean)? - x.broadcast_mul(&inner)?)?;
                let v = centred.broadcast_mul(&self.get(program, scale)?.unsqueeze(1)?)?;
                let before = self.masked(program, v.clone(), dropout, dout)?;
                if let Some(dbias) = dbias {
                    self.set(program, dbias, before.sum(0)?, true)?;
                }
                self.set(program, dv, v, false)?;
                dy.map_or(Ok(()), |dy| self.set(program, dy, before, false))
            }
            Instruction::RmsNorm { x, gain, epsilon, scale, out, after } => {
                let x = self.get(program, x)?;
                let square = x.sqr()?.mean_keepdim(D::Minus1)?;
                let rstd = (square + f64::from(epsilon))?.sqrt()?.recip()?;
                let scaled = x.broadcast_mul(&rstd)?.broadcast_mul(&self.get(program, gain)?)?;
                let scaled = self.masked(program, scaled, after, out)?;
                self.set(program, scale, rstd.squeeze(D::Minus1)?, false)?;
                self.set(program, out, scaled, false)
            }
            Instruction::RmsNormBackward { dout, x, scale, gain, after, dx, dgain } => {
                let gradient = self.get(program, dout)?;
                let gradient = self.masked(program, gradient, after, dout)?;
                let rstd = self.get(program, scale)?.unsqueeze(1)?;
                let normalized = self.get(program, x)?.broadcast_mul(&rstd)?;
                if let Some(dgain) = dgain {
                    self.set(program, dgain, (&gradient * &normalized)?.sum(0)?, true)?;
                }
                let g = gradient.broadcast_mul(&self.get(program, gain)?)?;
                let inner = (&g * &normalized)?.mean_keepdim(D::Minus1)?;
                let centred = (g - normalized.broadcast_mul(&inner)?)?;
                self.set(program, dx, centred.broadcast_mul(&rstd)?, false)
            }
            _ => self.relative(program, instruction),
        }
    }

    fn recover(
        &mut self,
        program: &Program,
        normalized: ValueId,
        gain: ValueId,
        shift: ValueId,
        out: ValueId,
        after: Option<Dropout>,
    ) -> Result<()> {
        let x = self.get(program, normalized)?.broadcast_mul(&self.get(program, gain)?)?;
        let x = x.broadcast_add(&self.get(program, shift)?)?;
        let x = self.masked(program, x, after, out)?;
        self.set(program, out, x, false)
    }
}
