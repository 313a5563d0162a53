//! Flow rules as text.

mod common;

use devrx_driver::flow::FlowRule;
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig { cases: 5_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_written_reads_back(rule in common::rule()) {
        prop_assert_eq!(rule.to_string().parse::<FlowRule>(), Ok(rule));
    }

    #[test]
    fn any_text_is_read_or_refused(text in "[a-z0-9=,./: x-]{0,40}") {
        if let Ok(rule) = text.parse::<FlowRule>() {
            prop_assert_eq!(rule.to_string().parse::<FlowRule>(), Ok(rule));
        }
    }
}
