// SPDX-License-Identifier: Apache-2.0

// Command snp-peer judges SEV-SNP evidence by go-sev-guest alone and prints its verdicts.
//
// It reads a case from each line of standard input and writes a line for each: whether go-sev-guest accepts it, and if not,
// what it says. All times, roots and revocation lists are the case's; nothing is fetched and nothing is judged here.
package main

import (
	"bufio"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/google/go-sev-guest/abi"
	"github.com/google/go-sev-guest/kds"
	"github.com/google/go-sev-guest/proto/sevsnp"
	"github.com/google/go-sev-guest/validate"
	"github.com/google/go-sev-guest/verify"
	"github.com/google/go-sev-guest/verify/trust"
	"github.com/google/logger"
)

const maxLineBytes = 1 << 20

// evidence is a case. Certificates and the list are DER, in base64; what is not there is empty.
type evidence struct {
	ID      string    `json:"id"`
	Report  []byte    `json:"report"`
	Vek     []byte    `json:"vek"`
	Ask     []byte    `json:"ask"` // or the ASVK
	Ark     []byte    `json:"ark"` // the trust anchor; none means the ones that go-sev-guest pins
	Crl     []byte    `json:"crl"`
	Product string    `json:"product"` // the product line whose ARK it is
	Now     time.Time `json:"now"`
	Policy  policy    `json:"policy"`
}

// policy is what a case asks for beyond authenticity.
type policy struct {
	AllowDebug *bool `json:"allow_debug"`
	VmplMax    *int  `json:"vmpl_max"`
	MinimumTCB struct {
		Bl    uint8 `json:"bl"`
		Tee   uint8 `json:"tee"`
		Snp   uint8 `json:"snp"`
		Ucode uint8 `json:"ucode"`
	} `json:"minimum_tcb"`
}

type verdict struct {
	ID      string `json:"id"`
	Accepts bool   `json:"accepts"`
	Says    string `json:"says"`
}

// store answers every request for a revocation list with the one at hand, as an offline store of endorsements does.
type store struct{ crl []byte }

func (s store) Get(url string) ([]byte, error) {
	if len(s.crl) == 0 || !strings.HasSuffix(url, "/crl") {
		return nil, errors.New("not in the store")
	}
	return s.crl, nil
}

// judge returns what go-sev-guest has against a case, or nil. A panic of it is a refusal that says so.
func judge(each *evidence) (err error) {
	defer func() {
		if found := recover(); found != nil {
			err = fmt.Errorf("panic: %v", found)
		}
	}()
	attestation, err := attestationOf(each)
	if err != nil {
		return err
	}
	options, err := verifyOptions(each)
	if err != nil {
		return err
	}
	if err := verify.SnpAttestation(attestation, options); err != nil {
		return fmt.Errorf("verify: %w", err)
	}
	if err := validate.SnpAttestation(attestation, validateOptions(&each.Policy)); err != nil {
		return fmt.Errorf("validate: %w", err)
	}
	return nil
}

func attestationOf(each *evidence) (*sevsnp.Attestation, error) {
	report, err := abi.ReportToProto(each.Report)
	if err != nil {
		return nil, err
	}
	info, err := abi.ParseSignerInfo(report.GetSignerInfo())
	if err != nil {
		return nil, err
	}
	chain := &sevsnp.CertificateChain{AskCert: each.Ask, ArkCert: each.Ark}
	if info.SigningKey == abi.VlekReportSigner {
		chain.VlekCert = each.Vek
	} else {
		chain.VcekCert = each.Vek
	}
	return &sevsnp.Attestation{Report: report, CertificateChain: chain}, nil
}

// verifyOptions trusts the case's ARK, or the one that go-sev-guest embeds, and takes the intermediate from the evidence:
// what go-sev-guest embeds for itself has no ASVK.
func verifyOptions(each *evidence) (*verify.Options, error) {
	options := &verify.Options{
		DisableCertFetching: true,
		CheckRevocations:    len(each.Crl) > 0,
		Getter:              store{each.Crl},
		Now:                 each.Now,
	}
	if len(each.Ask) == 0 {
		return options, nil
	}
	root := trust.AMDRootCertsProduct(each.Product)
	ark := each.Ark
	if len(ark) == 0 {
		pinned, err := trust.GetDefaultRootCerts(each.Product)
		if err != nil {
			return nil, err
		}
		ark = pinned.ProductCerts.Ark.Raw
	}
	if err := root.Decode(each.Ask, ark); err != nil {
		return nil, err
	}
	if len(each.Crl) > 0 {
		crl, err := x509.ParseRevocationList(each.Crl)
		if err != nil {
			return nil, err
		}
		root.CRL = crl
	}
	options.TrustedRoots = map[string][]*trust.AMDRootCerts{each.Product: {root}}
	return options, nil
}

// validateOptions allows everything that a case does not ask for.
func validateOptions(asked *policy) *validate.Options {
	return &validate.Options{
		GuestPolicy: abi.SnpPolicy{
			SMT:        true,
			MigrateMA:  true,
			CXLAllowed: true,
			Debug:      asked.AllowDebug == nil || *asked.AllowDebug,
		},
		PermitProvisionalFirmware: true,
		VMPL:                      asked.VmplMax,
		MinimumTCB: kds.TCBParts{
			BlSpl:    asked.MinimumTCB.Bl,
			TeeSpl:   asked.MinimumTCB.Tee,
			SnpSpl:   asked.MinimumTCB.Snp,
			UcodeSpl: asked.MinimumTCB.Ucode,
		},
	}
}

func run(in io.Reader, out io.Writer) error {
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, maxLineBytes)
	for lines.Scan() {
		var each evidence
		if err := json.Unmarshal(lines.Bytes(), &each); err != nil {
			return fmt.Errorf("read a case: %w", err)
		}
		answer := verdict{ID: each.ID, Accepts: true}
		if err := judge(&each); err != nil {
			answer.Accepts, answer.Says = false, err.Error()
		}
		if err := json.NewEncoder(out).Encode(answer); err != nil {
			return err
		}
	}
	return lines.Err()
}

func main() {
	logger.Init("snp-peer", false, false, io.Discard)
	if err := run(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
