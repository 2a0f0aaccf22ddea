// Command tlog checks a ledger's tree with nothing of keyledger's: the Go project's own note and tlog packages
// (golang.org/x/mod/sumdb), which know only the public documents. Of them C2SP tlog-tiles differs in one thing, the
// path of a tile, which has no height.
//
//	tlog -key VKEY-FILE [-old CHECKPOINT-FILE] [-save DIR] SOURCE
//
// SOURCE is the address of a server, or a folder that -save has filled from one. Everything is checked: the signature, every
// tile that is needed, that every entry is in the tree, and that the older checkpoint's tree is its beginning. It prints the
// size; exit 1 and one line if anything does not hold.
package main

import (
	"encoding/base64"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// The height of a tile in C2SP tlog-tiles: 256 hashes.
const height = 8

// source is where the public files are; it remembers what it has read.
type source struct {
	base, save string
	read       map[string][]byte
}

func (s *source) get(path string) ([]byte, error) {
	if bytes, ok := s.read[path]; ok {
		return bytes, nil
	}
	bytes, err := s.fetch(path)
	if err != nil {
		return nil, err
	}
	s.read[path] = bytes
	if s.save != "" {
		file := filepath.Join(s.save, filepath.FromSlash(path))
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return nil, err
		}
		if err := os.WriteFile(file, bytes, 0o644); err != nil {
			return nil, err
		}
	}
	return bytes, nil
}

func (s *source) fetch(path string) ([]byte, error) {
	if !strings.Contains(s.base, "://") {
		return os.ReadFile(filepath.Join(s.base, filepath.FromSlash(path)))
	}
	response, err := http.Get(s.base + "/" + path)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s", path, response.Status)
	}
	return io.ReadAll(response.Body)
}

// Height, ReadTiles and SaveTiles make it a tlog.TileReader.
func (s *source) Height() int { return height }

func (s *source) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	var all [][]byte
	for _, tile := range tiles {
		bytes, err := s.get(c2spPath(tile))
		if err != nil {
			return nil, err
		}
		if len(bytes) != tile.W*tlog.HashSize {
			return nil, fmt.Errorf("%s has %d bytes", c2spPath(tile), len(bytes))
		}
		all = append(all, bytes)
	}
	return all, nil
}

func (s *source) SaveTiles([]tlog.Tile, [][]byte) {}

// c2spPath is tile/L/N where Go has tile/8/L/N.
func c2spPath(tile tlog.Tile) string {
	return "tile/" + strings.TrimPrefix(tile.Path(), fmt.Sprintf("tile/%d/", height))
}

// open checks the signature on a checkpoint and takes it apart.
func open(msg []byte, verifier note.Verifier) (tlog.Tree, error) {
	opened, err := note.Open(msg, note.VerifierList(verifier))
	if err != nil {
		return tlog.Tree{}, err
	}
	lines := strings.Split(opened.Text, "\n")
	if len(lines) < 4 || lines[0] != verifier.Name() {
		return tlog.Tree{}, errors.New("not a checkpoint of this log")
	}
	size, err := strconv.ParseInt(lines[1], 10, 64)
	if err != nil {
		return tlog.Tree{}, err
	}
	root, err := base64.StdEncoding.DecodeString(lines[2])
	if err != nil || len(root) != tlog.HashSize {
		return tlog.Tree{}, errors.New("the checkpoint has no root")
	}
	return tlog.Tree{N: size, Hash: tlog.Hash(*(*[tlog.HashSize]byte)(root))}, nil
}

// entries fetches the bundle that begins with entry first, for a tree of so many.
func (s *source) entries(first, size int64) ([][]byte, error) {
	width := size - first
	if width > 1<<height {
		width = 1 << height
	}
	path := c2spPath(tlog.Tile{H: height, L: 0, N: first >> height, W: int(width)})
	path = "tile/entries/" + strings.TrimPrefix(path, "tile/0/")
	rest, err := s.get(path)
	if err != nil {
		return nil, err
	}
	var entries [][]byte
	for len(rest) > 0 {
		if len(rest) < 2 || len(rest)-2 < int(binary.BigEndian.Uint16(rest)) {
			return nil, fmt.Errorf("%s is cut off", path)
		}
		end := 2 + int(binary.BigEndian.Uint16(rest))
		entries, rest = append(entries, rest[2:end]), rest[end:]
	}
	if int64(len(entries)) != width {
		return nil, fmt.Errorf("%s has %d entries", path, len(entries))
	}
	return entries, nil
}

// served checks a C2SP tlog-proof file that the server made: that the record is in the tree of the checkpoint in it.
func (s *source) served(verifier note.Verifier, position int64, record tlog.Hash) error {
	file, err := s.get(fmt.Sprintf("api/v1/proof/inclusion?position=%d", position))
	if err != nil {
		return err
	}
	head, checkpoint, _ := strings.Cut(string(file), "\n\n")
	lines := strings.Split(head, "\n")
	if len(lines) < 2 || lines[0] != "c2sp.org/tlog-proof@v1" || lines[1] != fmt.Sprintf("index %d", position) {
		return errors.New("not a tlog-proof of this entry")
	}
	tree, err := open([]byte(checkpoint), verifier)
	if err != nil {
		return err
	}
	var proof tlog.RecordProof
	for _, line := range lines[2:] {
		hash, err := tlog.ParseHash(line)
		if err != nil {
			return err
		}
		proof = append(proof, hash)
	}
	return tlog.CheckRecord(proof, tree.N, tree.Hash, position, record)
}

func check(s *source, verifier note.Verifier, old string) (int64, error) {
	msg, err := s.get("checkpoint")
	if err != nil {
		return 0, err
	}
	tree, err := open(msg, verifier)
	if err != nil {
		return 0, err
	}
	hashes := tlog.TileHashReader(tree, s)
	for position := int64(0); position < tree.N; {
		entries, err := s.entries(position, tree.N)
		if err != nil {
			return 0, err
		}
		for _, entry := range entries {
			record := tlog.RecordHash(entry)
			proof, err := tlog.ProveRecord(tree.N, position, hashes)
			if err != nil {
				return 0, err
			}
			if err := tlog.CheckRecord(proof, tree.N, tree.Hash, position, record); err != nil {
				return 0, fmt.Errorf("entry %d: %w", position, err)
			}
			if strings.Contains(s.base, "://") && (position == 0 || position == tree.N-1) {
				if err := s.served(verifier, position, record); err != nil {
					return 0, fmt.Errorf("the proof of entry %d: %w", position, err)
				}
			}
			position++
		}
	}
	if old == "" {
		return tree.N, nil
	}
	msg, err = os.ReadFile(old)
	if err != nil {
		return 0, err
	}
	older, err := open(msg, verifier)
	if err != nil {
		return 0, fmt.Errorf("the older checkpoint: %w", err)
	}
	proof, err := tlog.ProveTree(tree.N, older.N, hashes)
	if err != nil {
		return 0, err
	}
	return tree.N, tlog.CheckTree(proof, tree.N, tree.Hash, older.N, older.Hash)
}

func main() {
	key := flag.String("key", "", "the file with the log's verifier key")
	old := flag.String("old", "", "a file with an older checkpoint of the same log")
	save := flag.String("save", "", "a folder to keep all that is fetched in")
	flag.Parse()
	vkey, err := os.ReadFile(*key)
	if err != nil || flag.NArg() != 1 {
		fmt.Fprintln(os.Stderr, "usage: tlog -key VKEY-FILE [-old CHECKPOINT-FILE] [-save DIR] SOURCE")
		os.Exit(2)
	}
	verifier, err := note.NewVerifier(strings.TrimSpace(string(vkey)))
	if err != nil {
		fmt.Fprintln(os.Stderr, "the key:", err)
		os.Exit(2)
	}
	s := &source{base: strings.TrimSuffix(flag.Arg(0), "/"), save: *save, read: map[string][]byte{}}
	size, err := check(s, verifier, *old)
	if err != nil {
		fmt.Fprintln(os.Stderr, "NOT PROVEN:", err)
		os.Exit(1)
	}
	fmt.Println(size)
}
