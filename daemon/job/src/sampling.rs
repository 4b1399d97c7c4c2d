//! What stages and evaluations have in common of how they sample.

use crate::error::JobError;
use crate::limits::TEMPERATURE_MIN;
use r1d_proto::shown;

/// Checks that float32 can hold the temperature.
pub(crate) fn check_temperature(temperature: f64, place: &str) -> Result<(), JobError> {
    if temperature > 0.0 && temperature < TEMPERATURE_MIN {
        let problem = format!(
            "temperature = {} is too low to divide by",
            shown::number(temperature)
        );
        let fix = format!(
            "set it to {TEMPERATURE_MIN} or more, or to 0 for the likeliest token each time"
        );
        return Err(JobError::unsound(place, problem, fix));
    }
    Ok(())
}
