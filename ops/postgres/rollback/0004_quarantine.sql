-- The refused rows are lost.
DROP TABLE quarantine;
