//! Lines by a point and a direction: `\vec{r} = (1, 2, 3) + t(1, 0, -1)`.
//!
//! Another point of the line, a multiple of the direction and another name of the parameter make
//! the same line. Only a reference that calls itself r, and is written as a point and a multiple of
//! a direction, is taken for one: elsewhere the parameter may be a time.

use reward_sdk::number;
use reward_sdk::rational::Rational;

/// Longer texts are something else.
const BYTES_MAX: usize = 200;

/// A point of a line and its direction, which is not zero; both of two or three coordinates.
#[derive(Debug, PartialEq)]
pub(crate) struct Line {
    point: Vec<Rational>,
    direction: Vec<Rational>,
}

impl Line {
    /// The line of a text that says `r =` before a point and a direction; with `named` that may be
    /// missing.
    pub(crate) fn read(text: &str, named: bool) -> Option<Line> {
        if text.len() > BYTES_MAX || !text.contains(['(', '\\']) {
            return None;
        }
        let mut plain: String = text
            .chars()
            .filter(|c| !c.is_whitespace() && *c != '$')
            .collect();
        const SPELLINGS: [(&str, &str); 12] = [
            ("\\left", ""),
            ("\\right", ""),
            ("\\begin{pmatrix}", "("),
            ("\\end{pmatrix}", ")"),
            ("\\begin{bmatrix}", "("),
            ("\\end{bmatrix}", ")"),
            ("\\langle", "("),
            ("\\rangle", ")"),
            ("\\\\", ","),
            ("\\cdot", ""),
            ("\\lambda", "l"),
            ("\\mu", "m"),
        ];
        for (spelling, sign) in SPELLINGS {
            plain = plain.replace(spelling, sign);
        }
        let (name, said) = plain
            .split_once('=')
            .map_or((None, plain.as_str()), |(name, said)| (Some(name), said));
        let is_r = |name: &str| {
            matches!(
                name,
                "\\vec{r}"
                    | "\\vecr"
                    | "\\mathbf{r}"
                    | "\\overrightarrow{r}"
                    | "\\boldsymbol{r}"
                    | "r"
            )
        };
        match name {
            Some(name) if !is_r(name) => return None,
            None if !named => return None,
            _ => {}
        }
        let (point, rest) = tuple(said)?;
        let mut rest = rest.chars();
        let sign = rest.next()?;
        let parameter = rest.next()?;
        if !matches!(sign, '+' | '-') || !parameter.is_ascii_lowercase() {
            return None;
        }
        let (direction, behind) = tuple(rest.as_str())?;
        let turns = direction.iter().any(|part| !part.is_zero());
        (behind.is_empty()
            && turns
            && direction.len() == point.len()
            && (2..=3).contains(&point.len()))
        .then_some(Line { point, direction })
    }

    /// Whether two are the same set of points; `None` where numbers grow too large.
    pub(crate) fn same(&self, other: &Line) -> Option<bool> {
        if self.point.len() != other.point.len() {
            return Some(false);
        }
        let between = self
            .point
            .iter()
            .zip(&other.point)
            .map(|(a, b)| a.subtract(b))
            .collect::<Option<Vec<Rational>>>()?;
        Some(parallel(&self.direction, &other.direction)? && parallel(&self.direction, &between)?)
    }
}

/// Whether one vector is a multiple of the other.
fn parallel(a: &[Rational], b: &[Rational]) -> Option<bool> {
    let (mut a_rest, mut b_rest) = (a, b);
    while let (Some((x, xs)), Some((y, ys))) = (a_rest.split_first(), b_rest.split_first()) {
        for (other_x, other_y) in xs.iter().zip(ys) {
            if x.multiply(other_y)? != y.multiply(other_x)? {
                return Some(false);
            }
        }
        (a_rest, b_rest) = (xs, ys);
    }
    Some(true)
}

/// The numbers of the tuple that a text begins with, and what stands behind it.
fn tuple(text: &str) -> Option<(Vec<Rational>, &str)> {
    let (inside, behind) = text.strip_prefix('(')?.split_once(')')?;
    let numbers = inside.split(',').map(|part| {
        number::read(part)
            .filter(|part| part.unit.is_none())
            .map(|part| part.value)
    });
    Some((numbers.collect::<Option<Vec<Rational>>>()?, behind))
}

#[cfg(test)]
mod tests {
    use super::Line;

    #[test]
    fn one_line_written_otherwise() {
        let line = Line::read(r"\vec{r}=(1,2,3)+t(1,0,-1)", false).unwrap();
        for (text, same) in [
            (r"\vec{r} = (2, 2, 2) + s(-2, 0, 2)", true),
            (r"(1,2,3)+\lambda(1,0,-1)", true),
            (
                r"\mathbf{r}=\begin{pmatrix}0\\2\\4\end{pmatrix}-t\begin{pmatrix}3\\0\\-3\end{pmatrix}",
                true,
            ),
            (r"\vec{r}=(2,2,3)+t(1,0,-1)", false),
            (r"\vec{r}=(1,2,3)+t(1,0,1)", false),
            (r"\vec{r}=(1,2)+t(1,0)", false),
        ] {
            assert_eq!(
                line.same(&Line::read(text, true).unwrap()),
                Some(same),
                "{text}"
            );
        }
        for text in [
            "(1,2,3)+t(1,0,-1)",
            r"\vec{r}(t)=(1,2,3)+t(1,0,-1)",
            r"\vec{r}=(1,2,3)",
            r"\vec{r}=(1,2,3)+t(0,0,0)",
        ] {
            assert_eq!(Line::read(text, false), None, "{text}");
        }
    }
}
