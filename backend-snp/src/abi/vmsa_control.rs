//! Numbers inside the VMSA that are made of fields: virtual interrupts, event injection, secure interrupt controller.
//!
//! Source: 24593, `facts/vmsa.csv` (kind `bits`).

bit_struct! {
    /// VINTR_CTRL: virtual interrupts of a level that gets its events from a more privileged one.
    pub struct VintrCtrl(u64) {
        /// Task priority; the low 4 bits count.
        v_tpr / with_v_tpr @ 7:0,
        /// 1 if an interrupt is pending.
        v_irq / with_v_irq @ 8:8,
        /// Virtual global interrupt flag.
        vgif / with_vgif @ 9:9,
        /// 1 in an interrupt shadow.
        int_shadow / with_int_shadow @ 10:10,
        /// 1 if an NMI is pending.
        v_nmi / with_v_nmi @ 11:11,
        /// 1 if NMIs are blocked.
        v_nmi_mask / with_v_nmi_mask @ 12:12,
        /// Priority of the pending interrupt.
        v_intr_prio / with_v_intr_prio @ 19:16,
        /// 1 to ignore the task priority.
        v_ign_tpr / with_v_ign_tpr @ 20:20,
        /// 1 if NMIs are virtualised.
        v_nmi_enable / with_v_nmi_enable @ 26:26,
        /// Vector of the pending interrupt.
        v_intr_vector / with_v_intr_vector @ 39:32,
        /// 1 if the VMSA must not be run.
        busy / with_busy @ 63:63,
    }
}

bit_struct! {
    /// EVENTINJ: an event to deliver at the next run. The host's exception answer has the same format.
    pub struct EventInj(u64) {
        /// Vector.
        vector / with_vector @ 7:0,
        /// Type, see [`EventType`].
        event_type / with_event_type @ 10:8,
        /// 1 if the error code counts.
        error_code_valid / with_error_code_valid @ 11:11,
        /// 1 to inject.
        valid / with_valid @ 31:31,
        /// Error code.
        error_code / with_error_code @ 63:32,
    }
}

codes! {
    /// Type of an event in [`EventInj`].
    pub struct EventType(u8) {
        /// Interrupt from outside.
        EXTERNAL_INTERRUPT = 0;
        /// NMI.
        NMI = 2;
        /// Exception.
        EXCEPTION = 3;
        /// INT n.
        SOFTWARE_INTERRUPT = 4;
    }
}
