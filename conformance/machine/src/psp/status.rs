//! Firmware status codes that the model returns (fact table `guest_request`, rows `fw_status`).
//!
//! | when | status |
//! |---|---|
//! | a request before the launch is finished, a page measured after it | [`INVALID_GUEST_STATE`] |
//! | a policy the platform cannot keep, or another one than the ID block has | [`POLICY_FAILURE`] |
//! | a measured page that is not page aligned | [`INVALID_ADDRESS`] |
//! | a message that does not decrypt, a launch digest other than the ID block's | [`BAD_MEASUREMENT`] |
//! | a message type the model does not serve | [`UNSUPPORTED`] |
//! | a wrong header field, message number, type, version or size | [`INVALID_PARAMETER`] |
//! | no message number left for request and response | [`AEAD_OVERFLOW`] |
//! | a key that is not loaded (inside a response) | [`INVALID_KEY`] |
//!
//! The tables name the codes but not which fault gets which; the choice above is this model's. A code returned as an
//! error means that the message was not consumed. Faults in an authentic payload are answered inside the encrypted
//! response, which consumes the message.

numbers! {
    pub u32:
    /// No fault.
    SUCCESS = 0x00;
    /// The guest is not in the state the command needs.
    INVALID_GUEST_STATE = 0x02;
    /// The guest policy cannot be kept.
    POLICY_FAILURE = 0x07;
    /// An address is invalid.
    INVALID_ADDRESS = 0x09;
    /// Something measured or authenticated has another value than it should.
    BAD_MEASUREMENT = 0x0b;
    /// The firmware does not do this.
    UNSUPPORTED = 0x15;
    /// A parameter is invalid.
    INVALID_PARAMETER = 0x16;
    /// The message numbers of a key are used up.
    AEAD_OVERFLOW = 0x1d;
    /// The selected key does not exist.
    INVALID_KEY = 0x27;
}
